"""Where a pursuit must end because nothing but rounding is left."""

# Below this share of |x| a correlation is rounding noise: picking it would grow the support and explain nothing.
NOISE_FLOOR = 1e-6
# An atom whose part outside the span of the support has a squared norm below this cannot be told from the span in
# single precision; taking it would make the least-squares coefficients meaningless.
MIN_NEW_DIRECTION = 1e-6
