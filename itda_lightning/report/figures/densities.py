"""Lay out how often latents are used: the bars of one dictionary, or one line per entry of a comparison."""

import math
from collections import Counter
from collections.abc import Sequence

from itda_lightning.report.figures.axes import Axis, Number, round_values
from itda_lightning.report.figures.methods import Method
from itda_lightning.report.figures.plots import LEFT, RIGHT, WIDTH, Plot, histogram, upright_axis
from itda_lightning.report.figures.scatter import Line, Scatter
from itda_lightning.report.words.wording import show_share

BINS_PER_DECADE = 4
WIDE = 620


def density_plot(densities: Sequence[float]) -> Plot | None:
    """Lay out the logarithm of how often each atom is used; return None if all atoms are dead."""
    low, (counts,) = _density_counts([densities])
    used = [density for density in densities if density > 0]
    if not used:
        return None
    edges = [low + index / BINS_PER_DECADE for index in range(len(counts) + 1)]
    titles = [
        f"{count:,} atoms used by {show_share(10**start)} to {show_share(10**end)} of tokens"
        for start, end, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return histogram(
        _decades(low, len(counts), WIDTH),
        edges,
        counts,
        titles,
        x_label="log₁₀ of the share of tokens that use the atom",
        y_label="atoms",
        summary=f"{len(used):,} of {len(densities):,} atoms are used, by {show_share(min(used))} "
        f"to {show_share(max(used))} of tokens.",
    )


def density_overlay(entries: Sequence[tuple[int, Method, Sequence[float]]]) -> Plot | None:
    """Lay out the share of each entry's latents by how often they are used; return None if no latent is used.

    Dead latents have a share but no place, so a line covers less than 1.
    """
    low, shares = density_shares([densities for _, _, densities in entries])
    used = [density for _, _, densities in entries for density in densities if density > 0]
    if not used:
        return None
    x = _decades(low, len(shares[0]), WIDE)
    y = upright_axis(round_values(0, max(map(max, shares))))
    return Scatter(
        x=x,
        y=y,
        x_label="log₁₀ of the share of tokens that use the latent",
        y_label="share of latents",
        summary=f"Used latents of {len(entries)} entries are used by {show_share(min(used))} to "
        f"{show_share(max(used))} of tokens; the table beside has their dead and dense shares.",
        lines=tuple(
            Line(number, method, _steps(values, x, y))
            for (number, method, _), values in zip(entries, shares, strict=True)
            if any(values)
        ),
    )


def density_shares(entries: Sequence[Sequence[float]]) -> tuple[int, list[list[float]]]:
    """Return the exponent of ten at which the first bin begins, and each entry's share of latents in each bin.

    There are four bins per decade, the same for all entries; dead latents are in none.
    """
    low, counts = _density_counts(entries)
    return low, [[count / len(densities) for count in row] for densities, row in zip(entries, counts, strict=True)]


def _density_counts(entries: Sequence[Sequence[float]]) -> tuple[int, list[list[int]]]:
    logs = [[math.log10(density) for density in densities if density > 0] for densities in entries]
    every = [value for values in logs for value in values]
    if not every:
        return 0, [[] for _ in entries]
    low = math.floor(min(every))
    bins = BINS_PER_DECADE * max(1, math.ceil(max(every)) - low)
    counts = [Counter(min(int((value - low) * BINS_PER_DECADE), bins - 1) for value in values) for values in logs]
    return low, [[row[index] for index in range(bins)] for row in counts]


def _decades(low: int, bins: int, width: Number) -> Axis:
    high = low + bins // BINS_PER_DECADE
    return Axis(low, high, LEFT, width - RIGHT).with_ticks(range(low, high + 1))


def _steps(shares: Sequence[float], x: Axis, y: Axis) -> str:
    """Return the outline of a histogram, from the axis and back to it, without the empty bins at its ends."""
    filled = [index for index, value in enumerate(shares) if value]
    edges = [x.place(x.low + index / BINS_PER_DECADE) for index in range(len(shares) + 1)]
    steps = [f"V{y.place(shares[index])}H{edges[index + 1]}" for index in range(filled[0], filled[-1] + 1)]
    return f"M{edges[filled[0]]} {y.start}{''.join(steps)}V{y.start}"
