"""Fit one dictionary: module, threshold, validation, checkpoints, refinement, run directory."""
