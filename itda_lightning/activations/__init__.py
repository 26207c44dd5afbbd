"""Where activations come from, and what each is called."""

import logging

# TransformerLens imports bitsandbytes wherever it is installed, which then warns of a kernel that it can do without, and later
# at every 8-bit product, whose inputs are rounded to half precision as they are meant to be.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
