"""Reconstruction of held-out activations by an entry, and the use of its latents, summed by document."""

import time
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.bootstrap import DocumentSums
from itda_lightning.dictionary.reconstruction_error import variance
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.used_latents import directions_of, used_latents, used_with_reconstructions
from itda_lightning.results.comparison import Estimate

# A latent used by more than this share of the tokens is dense.
DENSE = 0.1
TIMED_ACTIVATIONS, TIMED_REPEATS = 4096, 3


def measure_reconstruction(
    entry: Entry, data: ActivationsDataModule, hook_name: str
) -> tuple[dict[str, Estimate], Float[Tensor, " n"]]:
    """Measure reconstruction and sparsity over all held-out activations, and the share of these that use each latent.

    ``fvu`` is a ratio of sums over all activations, ``cossim`` a mean of cosines of activation and reconstruction,
    ``norm_ratio`` the sum of norms out over that of norms in. Raises InputError for tokens of a single document.
    """
    rows = data.rows("heldout")
    sums = DocumentSums(rows.document[rows.kept])
    counts = torch.zeros(len(directions_of(entry)), dtype=torch.int64)
    for x, table in data.heldout_batches(hook_name, description=f"Reconstruct with {entry.name}"):
        l0, parts = torch.zeros(len(x), dtype=torch.float64), []
        for used, part in used_with_reconstructions(entry, x):
            l0 += torch.bincount(used.token, minlength=len(x))
            counts += torch.bincount(used.latent, minlength=len(counts))
            parts.append(part)
        x, x_hat = x.double(), torch.cat(parts)
        norm_in, norm_out = x.norm(dim=1), x_hat.norm(dim=1)
        sums.update(
            table[:, COLUMNS.index("document")],
            tokens=torch.ones(len(x)),
            x=x,
            squares=x.square().sum(1),
            errors=(x - x_hat).square().sum(1),
            cosine=(x * x_hat).sum(1) / (norm_in * norm_out).clamp(min=1e-12),
            norm_in=norm_in,
            norm_out=norm_out,
            l0=l0,
        )
    densities = counts.double() / sums.sums["tokens"].sum()
    tokens, total, squares = (sums.sums[name] for name in ("tokens", "x", "squares"))
    fvu = sums.estimate(lambda errors, *moments: errors / variance(*moments), "errors", "squares", "x", "tokens")
    # Squared distances from the mean of all activations, which is not that of each document.
    mean = total.sum(0) / tokens.sum()
    distances = squares - 2 * total @ mean + tokens * mean.square().sum()
    measures = {
        "l0": sums.ratio(sums.sums["l0"], tokens),
        "fvu": replace(fvu, documents=sums.ratio(sums.sums["errors"], distances).documents),
        "cossim": sums.ratio(sums.sums["cosine"], tokens),
        "norm_ratio": sums.ratio(sums.sums["norm_out"], sums.sums["norm_in"]),
        "dead_share": Estimate(float((counts == 0).double().mean())),
        "dense_share": Estimate(float((densities > DENSE).double().mean())),
    }
    return measures, densities


def encoding_rate(entry: Entry, data: ActivationsDataModule, hook_name: str) -> float:
    """Measure the activations encoded per second: the best of several repetitions on the first held-out ones."""
    x = next(data.heldout_batches(hook_name)).x[:TIMED_ACTIVATIONS]
    seconds = []
    for _ in range(TIMED_REPEATS):
        start = time.perf_counter()
        for _ in used_latents(entry, x):
            pass
        seconds.append(time.perf_counter() - start)
    return len(x) / min(seconds)
