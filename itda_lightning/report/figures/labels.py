"""Find places for the numbers beside marks: clear of other marks, of error bars and of each other."""

import math
from collections.abc import Sequence

from itda_lightning.report.figures.axes import Number

# Left, top, right, bottom.
Box = tuple[Number, Number, Number, Number]
# Where a number may stand, in the order tried: (right, down) in units of the distance from the mark's centre.
PLACES = ((1, -1), (1, 1), (-1, -1), (-1, 1), (0, -1.3), (0, 1.3), (1.3, 0), (-1.3, 0))
CHARACTER, LINE = 5.2, 8.0
# How much a number outside the plot weighs, in units of covered area.
OUTSIDE = 50


def label_places(
    marks: Sequence[tuple[Number, Number, Number]], bars: Sequence[Box], texts: Sequence[str], frame: Box
) -> list[tuple[float, float]]:
    """Return the middle of each text, beside its mark (x, y, radius) and inside the frame if there is room."""
    boxes = [(x - r, y - r, x + r, y + r) for x, y, r in marks]
    places = []
    for index, ((x, y, r), text) in enumerate(zip(marks, texts, strict=True)):
        half, best = CHARACTER * len(text) / 2, (math.inf, (x, y))
        others = [*boxes[:index], *boxes[index + 1 :], *bars]
        for rank, (aside, down) in enumerate(PLACES):
            centre = (x + aside * (0.8 * r + half), y + down * (0.8 * r + LINE / 2))
            box = _around(centre, half)
            outside = box[0] < frame[0] or box[1] < frame[1] or box[2] > frame[2] or box[3] > frame[3]
            covered = sum(_overlap(box, other) for other in others)
            best = min(best, (covered + OUTSIDE * outside + 0.1 * rank, centre))
        boxes.append(_around(best[1], half))
        places.append((round(best[1][0], 1), round(best[1][1], 1)))
    return places


def _around(centre: tuple[float, float], half: float) -> Box:
    return (centre[0] - half, centre[1] - LINE / 2, centre[0] + half, centre[1] + LINE / 2)


def _overlap(one: Box, other: Box) -> float:
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return across * down if across > 0 and down > 0 else 0.0
