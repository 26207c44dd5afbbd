"""The part of a prompt that fits a line, with characters that would not show, or would do harm, made visible."""

import unicodedata

from itda_lightning.sources import Prompt

LINE_BREAKS = {"\r\n": "⏎", "\n": "⏎", "\r": "⏎", "\u2028": "⏎", "\u2029": "⏎", "\t": "⇥"}


def excerpt(prompt: Prompt, before: int, after: int) -> Prompt:
    """The last ``before`` characters ahead of the token, the token, and ``after`` behind it, made visible.

    An ellipsis stands where text was cut. A token of nothing but spaces shows them as open boxes, an empty one as ∅.
    """
    head = prompt.before[max(0, len(prompt.before) - before) :]
    tail = prompt.after[:after]
    token = visible(prompt.token)
    return Prompt(
        ("…" if len(head) < len(prompt.before) else "") + visible(head),
        token if token.strip() else "␣" * len(token) or "∅",
        visible(tail) + ("…" if len(tail) < len(prompt.after) else ""),
    )


def visible(text: str) -> str:
    """``text`` on one line, with nothing that drives a terminal or reverses the direction of what stands beside it.

    Line breaks and tabs become symbols, other control characters their pictures, explicit direction marks and lone
    surrogates a replacement character. Characters that join others, as in emoji and many scripts, stay.
    """
    for character, symbol in LINE_BREAKS.items():
        text = text.replace(character, symbol)
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if ord(character) < 0x20:
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cs") or unicodedata.bidirectional(character) in _DIRECTIONS:
        return "\ufffd"
    return character


_DIRECTIONS = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
