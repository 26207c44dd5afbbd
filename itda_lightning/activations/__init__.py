"""Compute activations of language models, each with its source, and keep them on disk."""

import logging

# TransformerLens imports bitsandbytes if it is installed, which warns of a kernel that it does not need, and then at
# every 8-bit product, whose inputs are meant to be rounded to half precision.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
