"""Where a pursuit must end: because nothing but rounding is left, or because enough is explained."""

from jaxtyping import Float
from torch import Tensor

# Below this share of |x| a correlation is rounding noise: picking it would grow the support and explain nothing.
NOISE_FLOOR = 1e-6
# An atom whose part outside the span of the support has a squared norm below this cannot be told from the span in
# single precision; taking it would make the least-squares coefficients meaningless.
MIN_NEW_DIRECTION = 1e-6


def threshold_of(
    error_threshold: float | Float[Tensor, " batch"] | None, part: slice
) -> float | Float[Tensor, " part"] | None:
    """The error threshold of a part of the samples, whether it is one for all or one for each."""
    return error_threshold[part] if isinstance(error_threshold, Tensor) else error_threshold
