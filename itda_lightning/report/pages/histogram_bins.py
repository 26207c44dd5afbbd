"""Cut the empty bins off the ends of a histogram."""

from collections.abc import Sequence
from typing import NamedTuple


class Bins(NamedTuple):
    """Equal bins: the low end of the first, the width of each, and the counts."""

    low: float
    width: float
    counts: Sequence[int]


def filled_bins(counts: Sequence[int], limit: float) -> Bins:
    """Return the bins from the first to the last that is not empty, of an even number over (-limit, limit)."""
    filled = [index for index, count in enumerate(counts) if count]
    first, last = (filled[0], filled[-1] + 1) if filled else (0, 0)
    half = len(counts) // 2
    width = limit / half if half else 0.0
    return Bins((first - half) * width, width, counts[first:last])
