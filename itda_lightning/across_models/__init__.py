"""Language models compared layer by layer: by the sources of their dictionaries, and by their activations on the same tokens."""
