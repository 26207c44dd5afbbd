"""Controls of a comparison, from the activations that a fit reads: random atoms and principal components."""

from typing import Any

import torch
import xxhash
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from torch import Tensor
from torch.nn import functional

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import fit_metadata, settings
from itda_lightning.dictionary.sources import Source, Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_between
from itda_lightning.pursuit import PursuitName
from itda_lightning.saelens.sae_metadata import site_metadata


def random_dictionary(
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
) -> Dictionary:
    """Draw training activations at random, without replacement, as the atoms of a dictionary with sources.

    Args:
        data, hook_name, tokens: as in ``TrainingRows``.
        n_atoms: number of atoms; activations of the same direction, bit for bit, are drawn once.
        k, pursuit, nonnegative: as in ``Dictionary``.
        bias: subtracted before atoms are normalised and activations encoded: that of the ITDA to compare with, or
            zeros; None for the mean that an ITDA takes by default.
        seed: seed of the draw.
        l0: prune codes to this mean number of atoms on the first batch of held-out activations; None for no pruning.

    Raises:
        InputError: more atoms than different activations, a bias of another width, or as ``TrainingRows``.
    """
    rows = TrainingRows(data, hook_name, tokens)
    check_between(1, rows.n_kept, {"n_atoms": n_atoms}, "atoms are drawn from the training activations")
    if bias is not None and bias.shape != (rows.d_in,):
        raise InputError(f"the bias must have shape ({rows.d_in},) like an activation, got {tuple(bias.shape)}")
    if bias is None:
        bias = rows.sample().double().mean(0).float()
    kept = rows.kept.nonzero()
    order = kept[torch.randperm(len(kept), generator=torch.Generator().manual_seed(seed))]
    atoms, places = torch.empty(0, rows.d_in), order[:0]
    seen: set[bytes] = set()
    while len(atoms) < n_atoms and len(order):
        drawn, order = order[: n_atoms - len(atoms)], order[n_atoms - len(atoms) :]
        raw = rows.at(drawn)
        x = functional.normalize(raw - bias.cpu(), dim=1) * raw.any(1, keepdim=True)
        good = torch.tensor([_is_new(row, seen) for row in x], dtype=torch.bool)
        atoms, places = torch.cat([atoms, x[good]]), torch.cat([places, drawn[good]])
    if len(atoms) < n_atoms:
        raise InputError(
            f"the training rows hold only {len(atoms):,} different usable activations, n_atoms is {n_atoms:,}"
        )
    table = rows.rows.source_table(*places.T)
    sources = Sources(table, rows.rows.dataset, tuple(rows.rows.prompt(Source(*row)) for row in table.tolist()))
    own = {"control": "random", "n_atoms": n_atoms, "k": k, "pursuit": pursuit, "nonnegative": nonnegative, "l0": l0}
    metadata = fit_metadata(
        hook_name,
        data=settings(data.hparams),
        fit=own | {"seed": seed, "tokens": tokens},
        threshold=None,
        seen=n_atoms,
        skipped=0,
        appended_at=torch.full((n_atoms,), n_atoms),
        history=[],
    )
    dictionary = Dictionary(
        atoms, bias.cpu(), sources, k=k, pursuit=pursuit, nonnegative=nonnegative, metadata=metadata
    )
    if l0 is not None:
        dictionary.calibrate_l0(next(data.heldout_batches(hook_name)).x, l0)
    return dictionary


def _is_new(row: Float[Tensor, " d"], seen: set[bytes]) -> bool:
    """Tell if a unit row is finite, not zero and not among ``seen``, and add it there."""
    digest = xxhash.xxh3_128_digest(row.numpy().tobytes())
    if digest in seen or not bool(torch.isfinite(row).all()) or not bool(row.any()):
        return False
    seen.add(digest)
    return True


def principal_components(
    rows: TrainingRows,
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"], Float[Tensor, " d"], int]:
    """Compute mean, principal components (as rows, largest variance first) and variances in float64, block by block.

    The number of activations comes last.
    """
    # Sums of activations less a vector near their mean lose no digits to a large mean.
    origin = rows.sample().double().mean(0)
    total, products, count = torch.zeros_like(origin), torch.zeros(rows.d_in, rows.d_in, dtype=torch.float64), 0
    for start, stop in rows.blocks:
        x = rows.read(start, stop).double() - origin
        total += x.sum(0)
        products += x.T @ x
        count += len(x)
    mean = total / count
    variances, vectors = torch.linalg.eigh(products / count - torch.outer(mean, mean))
    return origin + mean, vectors.T.flip(0), variances.flip(0).clamp(min=0), count


def pca_sae(data: ActivationsDataModule, hook_name: str, k: int, tokens: int | None = None) -> SAE[Any]:
    """Make an SAE of the best reconstruction by k fixed directions: the mean and the top k principal components.

    It is a standard SAE with the rows [P; -P]: its 2 k latents are the positive and the negative parts of the k
    projections, and its L0 is k.

    Raises InputError for k out of range, or as ``TrainingRows``, which explains the other arguments.
    """
    training_rows = TrainingRows(data, hook_name, tokens)
    check_between(1, training_rows.d_in, {"k": k}, "an activation has no more dimensions")
    mean, components, variances, seen = principal_components(training_rows)
    rows = torch.cat([components[:k], -components[:k]]).float()
    training = {"control": "pca", "k": k, "tokens": tokens, "activations_seen": seen}
    training["explained_variance"] = float(variances[:k].sum() / variances.sum())
    sae = StandardSAE(
        StandardSAEConfig(
            d_in=rows.shape[1],
            d_sae=len(rows),
            reshape_activations="hook_z" if hook_name.endswith("hook_z") else "none",
            metadata=SAEMetadata(**site_metadata(data, hook_name), training=training),
        )
    )
    weights = {"W_enc": rows.T.contiguous(), "W_dec": rows, "b_enc": torch.zeros(len(rows)), "b_dec": mean.float()}
    sae.load_state_dict(weights)
    return sae
