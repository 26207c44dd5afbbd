"""Compile the loops of the pursuits: numba on CPUs, Triton on GPUs."""
