"""Show results on self-contained pages, in the terminal and on Weights & Biases. Knows results, not models."""
