"""Harvest activations of a language model that stays on disk, one layer at a time."""
