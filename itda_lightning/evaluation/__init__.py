"""What a dictionary does on held-out activations: measurements, decompositions and the results that pages show."""
