"""Dictionaries of real activations (ITDA) for reading language models, beside SAEs in SAELens."""
