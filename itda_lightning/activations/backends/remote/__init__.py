"""Harvest activations of a language model that another machine runs."""
