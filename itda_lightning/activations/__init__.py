"""Where activations come from, and what each is called."""
