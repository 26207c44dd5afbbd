"""The values that options of commands choose from: apart from what uses them, which takes seconds to import."""

from typing import Literal

# How a language model is loaded.
Loader = Literal["bridge", "hooked_transformer", "huggingface"]
# How strongly a token uses an atom: by its code, or by the cosine of its activation with it.
Strength = Literal["coefficient", "cosine"]
