"""Tell SAEs that were still improving when their training ended from those that had settled.

The rule: over the last fifth of the training at its full learning rate, a line through the curve of the FVU falls by
more than three standard errors of its slope, and by at least 1% of the FVU. Noise of the optimiser alone has no slope;
a learning rate that decays lowers any loss, also one that had settled, so that stretch tells nothing; and 1% in a fifth
is about 3% per doubling of the training, which would change what a comparison says. Without enough points nothing is
said.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from itda_lightning.report.words.wording import show_number
from itda_lightning.results.comparison import Row

STRETCH, BEFORE = 0.2, 0.1  # shares of the training
FEWEST, ERRORS, LEAST = 4, 3.0, 0.01


class Falling(NamedTuple):
    """A loss that was still falling: the FVU at the end of the stretch, and a tenth of the training before that."""

    fvu: float
    before: float
    decayed: bool  # the learning rate decayed after the stretch


def still_falling(row: Row) -> Falling | None:
    """Return how the loss of an SAE was still falling when its training ended; None if it was not, or if unknown."""
    if row.kind not in ("sae", "frozen") or row.failure is not None or not row.curve:
        return None
    end = 1.0 if row.decay_from is None else row.decay_from
    seen = row.curve[-1][0]
    points = [(at / seen, fvu) for at, fvu in row.curve if seen > 0 and math.isfinite(fvu)]
    # Steps are whole, so a point can lie a little outside.
    last = [(share, fvu) for share, fvu in points if end - STRETCH - 0.01 <= share <= end + 0.01]
    if len(last) < FEWEST or len({share for share, _ in last}) < FEWEST:
        return None
    slope, error = _line(last)
    if slope >= -ERRORS * error or -slope * STRETCH < LEAST * last[-1][1]:
        return None
    before = min(last, key=lambda point: abs(point[0] - (last[-1][0] - BEFORE)))[1]
    return Falling(last[-1][1], before, end < 1)


def under_trained(rows: Sequence[Row]) -> list[str]:
    """Say of each SAE whose loss was still falling that it would be better if it were trained longer."""
    return [_words(row.name, falling) for row in rows if (falling := still_falling(row)) is not None]


def _words(name: str, falling: Falling) -> str:
    when = "its learning rate began to decay" if falling.decayed else "it ended"
    return (
        f"{name} is under-trained: its loss was still falling when {when} (FVU {show_number(falling.fvu)}, "
        f"{show_number(falling.before)} a tenth of the training before), so it would be better if trained longer."
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Fit a line by least squares; return its slope and the standard error of that."""
    across = [x for x, _ in points]
    middle, mean = sum(across) / len(points), sum(y for _, y in points) / len(points)
    spread = sum((x - middle) ** 2 for x in across)
    slope = sum((x - middle) * (y - mean) for x, y in points) / spread
    left = sum((y - mean - slope * (x - middle)) ** 2 for x, y in points)
    return slope, math.sqrt(left / (len(points) - 2) / spread)
