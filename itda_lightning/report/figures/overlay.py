"""How often latents are used: one line an entry, all in one plot."""

import math
from collections.abc import Sequence

from itda_lightning.report.figures.methods import Method
from itda_lightning.report.figures.plots import BOTTOM, HEIGHT, LEFT, TOP, Plot, Scale, round_values
from itda_lightning.report.figures.scatter import Line, Scatter
from itda_lightning.report.words.wording import show_share

BINS_A_DECADE = 4
WIDE = 620


def density_overlay(entries: Sequence[tuple[int, Method, Sequence[float]]]) -> Plot | None:
    """The share of each entry's latents by the logarithm of how often they are used; None where no latent is used.

    Args:
        entries: (number, method, densities); dead latents have a share but no place, so a line covers less than 1.
    """
    low, shares = density_shares([densities for _, _, densities in entries])
    if not any(map(any, shares)):
        return None
    used = [density for _, _, densities in entries for density in densities if density > 0]
    high = low + len(shares[0]) // BINS_A_DECADE
    x = Scale(low, high, LEFT, WIDE - 12)
    y_values = round_values(0, max(max(values) for values in shares))
    y = Scale(0, y_values[-1], HEIGHT - BOTTOM, TOP)
    return Scatter(
        x_label="log₁₀ of the share of tokens that use the latent",
        y_label="share of latents",
        summary=f"Used latents of {len(entries)} entries are used by {show_share(min(used))} to "
        f"{show_share(max(used))} of tokens; the table beside has their dead and dense shares.",
        x_ticks=x.ticks(range(low, high + 1)),
        y_ticks=y.ticks(y_values),
        lines=tuple(
            Line(number, method, _steps(values, x, y, low))
            for (number, method, _), values in zip(entries, shares, strict=True)
            if any(values)
        ),
        width=WIDE,
        right=WIDE - 12,
    )


def density_shares(entries: Sequence[Sequence[float]]) -> tuple[int, list[list[float]]]:
    """The exponent of ten at which the first bin begins, and for each entry the share of its latents in each bin.

    There are four bins a decade, the same for all entries; dead latents are in none.
    """
    logs = [[math.log10(density) for density in densities if density > 0] for densities in entries]
    every = [value for values in logs for value in values]
    if not every:
        return 0, [[] for _ in entries]
    low, high = math.floor(min(every)), max(math.floor(min(every)) + 1, math.ceil(max(every)))
    shares = []
    for densities, values in zip(entries, logs, strict=True):
        counts = [0] * ((high - low) * BINS_A_DECADE)
        for value in values:
            counts[min(int((value - low) * BINS_A_DECADE), len(counts) - 1)] += 1
        shares.append([count / len(densities) for count in counts])
    return low, shares


def _steps(shares: Sequence[float], x: Scale, y: Scale, low: int) -> str:
    """The outline of a histogram, from the axis and back to it, without the empty bins at its ends."""
    filled = [index for index, value in enumerate(shares) if value]
    path = f"M{x(low + filled[0] / BINS_A_DECADE)} {y(0)}"
    for index in range(filled[0], filled[-1] + 1):
        path += f"V{y(shares[index])}H{x(low + (index + 1) / BINS_A_DECADE)}"
    return path + f"V{y(0)}"
