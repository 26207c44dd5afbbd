"""A control of a comparison: the centroids of k-means as atoms, which stand for one cluster of activations each."""

from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows, shuffled_batches
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import fit_metadata, settings
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least, check_between
from itda_lightning.pursuit import PursuitName

# Activations per step, and per centroid in a step if that is more: scikit-learn starts from those of the first step.
STEP, PER_CENTROID = 4096, 3
BUFFER_BYTES = 2**30


def kmeans_dictionary(
    data: ActivationsDataModule,
    hook_name: str,
    n_atoms: int,
    k: int,
    pursuit: PursuitName = "omp",
    bias: Float[Tensor, " d"] | None = None,
    seed: int = 0,
    *,
    nonnegative: bool = False,
    tokens: int | None = None,
    l0: float | None = None,
    passes: int = 3,
) -> Dictionary:
    """Make a dictionary of the centroids of mini-batch k-means on training activations.

    Activations are centred and scaled to unit norm, as an ITDA reads them, and so are the centroids. They are no
    activations, so they have no sources.

    Args:
        data, hook_name, tokens: as in ``TrainingRows``.
        n_atoms: number of centroids.
        k, pursuit, nonnegative: as in ``Dictionary``.
        bias: subtracted from activations: that of the ITDA to compare with, or zeros; None for the mean that an ITDA
            takes by default.
        seed: seed of the first centroids and of the order of activations.
        l0: prune codes to this mean number of atoms on the first batch of held-out activations; None for no pruning.
        passes: how often the activations are read, in shuffled batches.

    Raises:
        InputError: scikit-learn is missing, more centroids than activations, or as ``TrainingRows``.
    """
    minibatches = _kmeans()
    rows = TrainingRows(data, hook_name, tokens)
    check_between(1, rows.n_kept, {"n_atoms": n_atoms}, "centroids are of the training activations")
    check_at_least(1, {"passes": passes})
    bias = rows.sample().double().mean(0).float() if bias is None else bias.cpu()
    size = min(rows.n_kept, max(STEP, PER_CENTROID * n_atoms))
    steps = max(1, passes * rows.n_kept // size)
    means = minibatches(n_atoms, batch_size=size, random_state=seed)
    for x in islice(shuffled_batches(rows, size, seed, BUFFER_BYTES), steps):
        means.partial_fit(normalize(x - bias, dim=1).numpy())
    atoms = normalize(torch.from_numpy(means.cluster_centers_).float(), dim=1)
    own = {"control": "kmeans", "n_atoms": n_atoms, "k": k, "pursuit": pursuit, "nonnegative": nonnegative, "l0": l0}
    metadata = fit_metadata(
        hook_name,
        data=settings(data.hparams),
        fit=own | {"seed": seed, "tokens": tokens, "passes": passes},
        threshold=None,
        seen=steps * size,
        skipped=0,
        appended_at=torch.full((n_atoms,), steps * size),
        history=[],
    )
    dictionary = Dictionary(atoms, bias, k=k, pursuit=pursuit, nonnegative=nonnegative, metadata=metadata)
    if l0 is not None:
        dictionary.calibrate_l0(next(data.heldout_batches(hook_name)).x, l0)
    return dictionary


def check_sklearn() -> None:
    """Raise InputError, with the remedy, unless scikit-learn can be imported."""
    _kmeans()


def _kmeans() -> Any:
    try:
        from sklearn.cluster import MiniBatchKMeans  # of the extra `kmeans`
    except ImportError as error:
        raise InputError(
            f"k-means centroids need scikit-learn, which cannot be imported ({error}): run "
            "`pip install 'itda-lightning[kmeans]'`"
        ) from error
    return MiniBatchKMeans
