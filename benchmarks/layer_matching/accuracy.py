"""Layer matching between several models with equal numbers of layers, with errors over models."""

import itertools

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.across_models.site_matrix import matching_accuracy


def accuracy_over_models(values: Float[Tensor, "sites sites"], models: int) -> tuple[float, float]:
    """Return the accuracy over all ordered pairs of different models, and its standard error.

    The error is the jackknife's (Tukey 1958; for pairs of units Arvesen 1969): each model is left out in turn, with all
    of its pairs. It says what other seeds would change, not what other tokens would.
    """
    layers = len(values) // models
    left_out = []
    for model in range(models):
        others = torch.tensor([site for site in range(len(values)) if site // layers != model])
        left_out.append(_accuracy(values[others][:, others], models - 1))
    spread = torch.tensor(left_out, dtype=torch.float64).var(correction=0)
    return _accuracy(values, models), float(((models - 1) * spread).sqrt())


def accuracy_by_layer(values: Float[Tensor, "sites sites"], models: int) -> list[float]:
    """Return for each layer the share of other models in which it is found."""
    layers = len(values) // models
    blocks = values.unflatten(0, (models, layers)).unflatten(2, (models, layers))
    right = [blocks[a, :, b].argmax(1) == torch.arange(layers) for a, b in itertools.permutations(range(models), 2)]
    return torch.stack(right).double().mean(0).tolist()


def share_within_one(values: Float[Tensor, "sites sites"], models: int) -> float:
    """Return how often the most similar layer of another model is at the same place or next to it."""
    layers = len(values) // models
    blocks = values.unflatten(0, (models, layers)).unflatten(2, (models, layers))
    nearest = torch.cat([blocks[a, :, b].argmax(1) for a, b in itertools.permutations(range(models), 2)])
    places = torch.arange(layers).repeat(models * (models - 1))
    return float((nearest - places).abs().le(1).double().mean())


def lead_of_the_same_layer(values: Float[Tensor, "sites sites"], models: int) -> tuple[float, float]:
    """Return the lead in similarity of the same layer of another model over the layers next to it.

    Returns:
        The mean, and the standard deviation of a value over pairs of models, mean of all pairs of layers.
    """
    layers = len(values) // models
    blocks = values.unflatten(0, (models, layers)).unflatten(2, (models, layers))
    pairs = torch.stack([blocks[a, :, b] for a, b in itertools.permutations(range(models), 2)])
    mean = pairs.mean(0)
    leads = [mean[i, i] - mean[i, j] for i in range(layers) for j in (i - 1, i + 1) if 0 <= j < layers]
    return float(torch.stack(leads).mean()), float(pairs.std(0).mean())


def _accuracy(values: Float[Tensor, "sites sites"], models: int) -> float:
    ends = range(0, len(values) + 1, len(values) // models)
    return matching_accuracy(values, [range(*places) for places in itertools.pairwise(ends)])
