"""Load language models and find their hook points."""
