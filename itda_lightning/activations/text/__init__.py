"""Read documents, cut them into rows of tokens, and hold documents out."""
