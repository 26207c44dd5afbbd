"""Have another machine run the language model."""
