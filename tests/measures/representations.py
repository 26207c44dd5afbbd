"""Representations to compare, and all measures of two tensors."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from itda_lightning.measures import (
    Moments,
    MutualNeighbours,
    RelativeSimilarity,
    aligned_cosine,
    angular_procrustes,
    angular_procrustes_of,
    cka,
    cka_of,
    distance_correlation,
    mutual_neighbours,
    procrustes,
    procrustes_of,
    pwcca,
    pwcca_of,
    regression_r2,
    regression_r2_of,
    relative_similarity,
    rsa,
    second_order_cosine,
    svcca,
    svcca_of,
)

Measure = Callable[[Tensor, Tensor], float]


def draw(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def rotation(seed: int, d: int) -> Tensor:
    return torch.linalg.qr(draw(seed, d, d))[0]


def related(seed: int, n: int, d1: int, d2: int) -> tuple[Tensor, Tensor]:
    """Return two noisy views of the same tokens."""
    x = draw(seed, n, d1)
    return x, x @ draw(seed + 1, d1, d2) + 0.7 * draw(seed + 2, n, d2)


def debiased_cka(x: Tensor, y: Tensor) -> float:
    return cka(x, y, debiased=True)


def whole_svcca(x: Tensor, y: Tensor) -> float:
    return svcca(x, y, variance=1.0)


def relative(x: Tensor, y: Tensor) -> float:
    return relative_similarity(x, y, torch.arange(7))


def neighbours(x: Tensor, y: Tensor) -> float:
    return mutual_neighbours(x, y, k=5)


def second_order(x: Tensor, y: Tensor) -> float:
    return second_order_cosine(x, y, k=5)


OF_MOMENTS: dict[str, Measure] = {
    "cka": cka,
    "debiased cka": debiased_cka,
    "svcca": svcca,
    "svcca of all": whole_svcca,
    "pwcca": pwcca,
    "regression": regression_r2,
    "procrustes": procrustes,
    "angular procrustes": angular_procrustes,
}
OF_COSINES: dict[str, Measure] = {"relative": relative, "neighbours": neighbours, "second order": second_order}
OF_A_SAMPLE: dict[str, Measure] = {
    "aligned cosine": aligned_cosine,
    "distance correlation": distance_correlation,
    "rsa": rsa,
}
CENTRED = OF_MOMENTS | OF_A_SAMPLE
MEASURES = CENTRED | OF_COSINES
STREAMED = [*OF_MOMENTS, "relative", "neighbours"]
NEGATIVE = ("relative", "debiased cka", "aligned cosine", "rsa", "second order")
# The arc cosine of what is nearly 1 has half the digits.
ROUNDING = {"angular procrustes": 1e-7}
SYMMETRIC = [name for name in MEASURES if name not in ("pwcca", "regression")]
BLIND_TO_INVERTIBLE_MAPS = ["svcca of all", "pwcca", "regression"]

FROM_MOMENTS = {
    "cka": cka_of,
    "debiased cka": lambda moments: cka_of(moments, debiased=True),
    "svcca": svcca_of,
    "svcca of all": lambda moments: svcca_of(moments, variance=1.0),
    "pwcca": pwcca_of,
    "regression": regression_r2_of,
    "procrustes": procrustes_of,
    "angular procrustes": angular_procrustes_of,
}


def streamed(name: str, x: Tensor, y: Tensor, sizes: list[int]) -> float:
    """Return the measure of that name from batches of these sizes."""
    batches = list(zip(x.split(sizes), y.split(sizes), strict=True))
    if name in OF_MOMENTS:
        running: Moments | RelativeSimilarity | MutualNeighbours = Moments()
    elif name == "relative":
        running = RelativeSimilarity(x[:7], y[:7])
    else:
        running = MutualNeighbours(x, y, k=5, places=torch.arange(len(x)))
    for batch in batches:
        running.update(*batch)
    return FROM_MOMENTS[name](running.compute()) if isinstance(running, Moments) else running.compute()
