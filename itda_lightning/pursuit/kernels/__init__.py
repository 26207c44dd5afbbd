"""The compiled loops of the pursuits: numba on CPUs, Triton on GPUs."""
