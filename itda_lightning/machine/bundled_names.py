"""Name the bundled model and text for what they are."""

BUNDLED = {
    "bundled:smollm2-135m": "SmolLM2-135M-Instruct, dequantised from 4 bits",
    "bundled:sotu": "the State of the Union addresses",
}


def described(name: str) -> str:
    """Return a name with what it stands for if it is bundled, any other as it is.

    Example:
        >>> from itda_lightning.machine.bundled_names import described
        >>> described("bundled:smollm2-135m"), described("gpt2")
        ('bundled:smollm2-135m (SmolLM2-135M-Instruct, dequantised from 4 bits)', 'gpt2')
    """
    return f"{name} ({BUNDLED[name]})" if name in BUNDLED else name


def in_words(name: str) -> str:
    """Return what a name stands for if it is bundled, for headings; any other as it is."""
    return BUNDLED.get(name, name)
