"""Compare several dictionaries of one model on the same held-out tokens."""
