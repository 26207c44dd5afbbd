"""Comparisons of models as the similarity command gives them, made up, of any size."""

import math
import random

from itda_lightning.across_models.similarity_settings import MEASURES
from itda_lightning.results.model_similarity import (
    MeasuredSites,
    ModelSimilarity,
    Overlap,
    Reordered,
    Site,
    WholeModels,
)


def similarity_of(
    layers: dict[str, int], measures: tuple[str, ...] = MEASURES, with_sources: bool = True
) -> ModelSimilarity:
    """Model -> number of layers. Values fall with the distance of layers."""
    chance = random.Random(0)
    sites = [
        Site(name, f"blocks.{layer}.hook_resid_post", str(layer)) for name, n in layers.items() for layer in range(n)
    ]
    measured = []
    for measure in measures if with_sources else [one for one in measures if "jaccard" not in one]:
        values = [
            [1.0 if a == b else 0.8 / (1 + abs(int(a.label) - int(b.label))) + chance.uniform(0, 0.05) for b in sites]
            for a in sites
        ]
        errors = [[0.0 if a == b else 0.0123 for b in sites] for a in sites]
        accuracy = 0.75 if len(set(layers.values())) < len(layers) else math.nan
        error = 0.05 if math.isfinite(accuracy) else math.nan
        measured.append(
            MeasuredSites(
                measure,
                tuple(map(tuple, values)),
                tuple(map(tuple, errors)),
                tuple(tuple(math.nan if a == b else 0.05 for b in sites) for a in sites),
                tuple(tuple(1.0 if x == 1 else (x - 0.05) / 0.95 for x in row) for row in values),
                1.5,
                accuracy,
                error,
                (1 + accuracy) / 2,
            )
        )
    names = list(layers)
    return ModelSimilarity(
        title=" and ".join(names),
        facts={f"model {name}": f"org/{name}" for name in names} | {"held-out tokens": "8,128 of 25 documents"},
        sites=tuple(sites),
        atoms=1000 if with_sources else 0,
        universe=16_000 if with_sources else 0,
        chance=0.0323 if with_sources else math.nan,
        measured=tuple(measured),
        whole_models=tuple(
            WholeModels(a, b, Overlap(0.41, 0.09, 0.02)) for i, a in enumerate(names) for b in names[i + 1 :]
        )
        if with_sources
        else (),
        reordered=tuple(
            Reordered(name, hook, (Overlap(0.127, 0.0323, 0.01),))
            for name, n in layers.items()
            for hook in (*(f"blocks.{layer}.hook_resid_post" for layer in range(n)), None)
        )
        if with_sources
        else (),
    )
