"""Judge one dictionary on held-out activations: measurements, decompositions and the results that pages show."""
