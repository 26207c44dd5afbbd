"""Score an SAE in a world whose features are known, by SAELens's own evaluation on held-out samples that are kept."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.synthetic import ActivationGenerator, eval_sae_on_synthetic_data
from torch import Tensor

from benchmarks.synthetic.worlds import PART, World

MEASURES = ("f1", "precision", "recall", "mcc", "uniqueness", "ev", "l0", "dead")


class Replay:
    """What the evaluation asks of a generator: the next held-out samples, as they were drawn."""

    def __init__(self, world: World, count: int, batch_size: int) -> None:
        self.batches = self._batches(world, count, batch_size)

    @staticmethod
    def _batches(world: World, count: int, batch_size: int) -> Iterator[Float[Tensor, "batch n"]]:
        for part in world.fired("heldout", count):
            yield from part.to_dense().split(batch_size)

    def sample(self, batch_size: int) -> Float[Tensor, "batch n"]:
        """Return the next samples: (batch_size, n) strengths of all features."""
        batch = next(self.batches)
        assert len(batch) == batch_size, f"samples come {len(batch)} at a time, not {batch_size}"
        return batch


def score(sae: SAE[Any], world: World, count: int, batch_size: int = 2048) -> dict[str, float]:
    """Score an SAE on ``count`` held-out samples.

    Returns:
        F1, precision and recall of its latents, each as a detector of the feature most like it; MCC of its decoder and
        uniqueness; EV, the share of variance explained; mean L0 and the number of dead latents.
    """
    assert PART % batch_size == 0
    replay = cast(ActivationGenerator, Replay(world, count, batch_size))
    with torch.no_grad():
        result = eval_sae_on_synthetic_data(sae, world.model.feature_dict, replay, count, batch_size)
    detection = result.classification
    return {
        "f1": detection.f1_score,
        "precision": detection.precision,
        "recall": detection.recall,
        "mcc": result.mcc,
        "uniqueness": result.uniqueness,
        "ev": result.explained_variance,
        "l0": result.sae_l0,
        "dead": float(result.dead_latents),
    }
