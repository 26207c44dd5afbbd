"""Compute what measures of moments are if the tokens of one site are permuted against those of the other."""

import time
from collections.abc import Callable, Mapping

from itda_lightning.across_models.site_matrix import SiteMatrix
from itda_lightning.measures.cka import cka_null_of
from itda_lightning.measures.moments import CrossMoments, Pair
from itda_lightning.measures.permuted import DRAWS, permuted, square_root
from itda_lightning.measures.regression import regression_null_of

NOT_SYMMETRIC = ("pwcca", "regression")
# Where there is a closed form; of the other measures it is the mean of draws.
NULLS: dict[str, Callable[[CrossMoments], float]] = {
    "cka": cka_null_of,
    "debiased_cka": lambda _: 0.0,
    "regression": regression_null_of,
}


def fill_nulls(
    matrices: dict[str, SiteMatrix],
    measures: Mapping[str, Callable[[CrossMoments], float]],
    pairs: Mapping[Pair, CrossMoments],
) -> float:
    """Fill in the nulls of all matrices for some pairs of sites; return the seconds of what the measures share."""
    start, before = time.perf_counter(), sum(matrix.seconds for matrix in matrices.values())
    drawn = [name for name in matrices if name not in NULLS]
    grams = {site: gram for (i, j), moments in pairs.items() for site, gram in ((i, moments.xx), (j, moments.yy))}
    roots = {site: square_root(gram) for site, gram in grams.items()} if drawn else {}
    for (i, j), moments in pairs.items():
        for name in matrices.keys() & NULLS.keys():
            _add(matrices, name, i, j, NULLS[name], moments, 1.0)
        for draw in range(DRAWS) if drawn else ():
            one = permuted(moments, roots[i], roots[j], seed=draw)
            for name in drawn:
                _add(matrices, name, i, j, measures[name], one, 1 / DRAWS)
    return time.perf_counter() - start - (sum(matrix.seconds for matrix in matrices.values()) - before)


def _add(
    matrices: dict[str, SiteMatrix],
    name: str,
    i: int,
    j: int,
    measure: Callable[[CrossMoments], float],
    moments: CrossMoments,
    share: float,
) -> None:
    """Add a share of a measure of one pair, both ways round, to its null, and the time that it took."""
    start, matrix = time.perf_counter(), matrices[name]
    values = measure(moments), measure(moments.swapped) if name in NOT_SYMMETRIC else None
    for place, value in (((i, j), values[0]), ((j, i), values[0] if values[1] is None else values[1])):
        matrix.null[place] = matrix.null[place].nan_to_num() + share * value
    matrices[name] = matrix._replace(seconds=matrix.seconds + time.perf_counter() - start)
