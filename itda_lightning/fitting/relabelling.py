"""Relabelling: name each refined atom by the training activation that it is most like among its typical uses."""

import logging
import time
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.fitting.module import ITDA
from itda_lightning.machine.processes import gather_rows, n_ranks, rank
from itda_lightning.machine.progress import bars_are_hidden
from itda_lightning.pursuit import support_products

logger = logging.getLogger(__name__)

# Activations whose products with an atom of each code are held at a time.
PART = 1024

# Uses of an atom whose tokens tell which is typical. On SmolLM2-135M-Instruct (4 bits) the more the better: labelled by
# the token of the nearest, of 10, of 20 and of 50 on one half of the training tokens, .247, .275, .288 and .299 of
# the 50 strongest detections on the other half are the label's token.
NEAREST = 50


def relabel(module: ITDA, data: ActivationsDataModule) -> float:
    """Relabel every dictionary of a module in place whose refinement asked for it; return the seconds.

    The same bits on any number of processes. If it is killed, it starts again. Raises InputError like ``TrainingRows``.
    """
    start = time.perf_counter()
    for hook, facts in module.refinements.items():
        if not facts["relabel"] or "mean_label_cosine" in facts:
            continue
        begun, dictionary = time.perf_counter(), module.dictionary(hook)
        home = dictionary.bias.device
        labels = typical_uses(dictionary.to(data.model_name.torch_device()), TrainingRows(data, hook))
        dictionary.to(home).relabel(labels)
        facts["mean_label_cosine"] = float(labels.cosines.mean())
        logger.info(
            "relabelled %d atoms at %s in %.1f s: mean cosine with the labels %.4f, with the sources %.4f",
            *(dictionary.n_atoms, hook, time.perf_counter() - begun, facts["mean_label_cosine"], facts["mean_cosine"]),
        )
    return time.perf_counter() - start


class Uses(NamedTuple):
    """Uses of n atoms, the largest cosine first: cosines (-inf for none), numbers of blocks of rows, and sources."""

    cosines: Float[Tensor, "n uses"]
    blocks: Int[Tensor, "n uses"]
    table: Int[Tensor, "n uses 6"]


def typical_uses(dictionary: Dictionary, rows: TrainingRows) -> Labels:
    """Return for each atom the activation that it is most like among its typical uses.

    Of the activations whose code uses the atom, the ``NEAREST`` with the largest cosine with it are looked at; typical
    are those of the token that is most frequent among them, or of the nearest of equally frequent tokens. Of equal
    cosines the first in the order of the data comes first. An atom that no code uses keeps its first source. Processes
    take turns with the blocks of rows.
    """
    n, prepared = dictionary.n_atoms, dictionary.prepared()
    norms = torch.linalg.vector_norm(dictionary.atoms, dim=1, dtype=torch.float64)
    found = Uses(
        torch.full((n, NEAREST), -torch.inf, dtype=torch.float64),
        torch.zeros(n, NEAREST, dtype=torch.int64),
        dictionary.source_table.cpu()[:, None].repeat(1, NEAREST, 1),
    )
    for number, block in enumerate(tqdm(rows.blocks, desc=f"Relabel {rows.hook_name}", disable=bars_are_hidden())):
        if number % n_ranks() != rank():
            continue
        activations, parts = rows.usable(*block), []
        for x, sources in zip(activations.x.split(PART), activations.table.split(PART), strict=True):
            x = x.to(norms.device)
            code, centred = dictionary.encode(x), dictionary.centre(x)
            used = code.coefficients != 0
            row, atom = used.nonzero()[:, 0], code.support[used]
            lengths = torch.linalg.vector_norm(centred, dim=1, dtype=torch.float64)[row] * norms[atom]
            cosines = support_products(centred, code.support, prepared)[used] / lengths
            parts.append((atom.cpu(), cosines.cpu(), sources[row.cpu()]))
        atom, cosine, table = (torch.cat(of_all) for of_all in zip(*parts, strict=True))
        touched, new = uses_of(atom, cosine, table, number)
        merged = nearest_of(Uses(*(field[touched] for field in found)), new)
        for field, value in zip(found, merged, strict=True):
            field[touched] = value
    of_all = (gather_rows(field[None], [1] * n_ranks()) for field in found)
    found = nearest_of(*(Uses(*of_one) for of_one in zip(*of_all, strict=True)))
    row, position = (found.table[..., COLUMNS.index(name)] for name in ("row", "position"))
    token = rows.rows.tokens[row.clamp(min=0), position.clamp(min=0)].where(found.cosines.isfinite(), -1)
    frequency = torch.stack([(token == of_one[:, None]).sum(1) for of_one in token.T], dim=1)
    chosen = torch.where(token >= 0, frequency, 0).argmax(1)  # the first, so the nearest, of the most frequent
    every = torch.arange(n)
    cosines = found.cosines[every, chosen]
    firsts = dictionary.cosines
    unused = torch.ones_like(cosines) if firsts is None else firsts.cpu()
    return Labels(found.table[every, chosen], torch.where(cosines.isfinite(), cosines, unused))


def uses_of(
    atom: Int[Tensor, " m"], cosine: Float[Tensor, " m"], sources: Int[Tensor, "m 6"], block: int
) -> tuple[Int[Tensor, " touched"], Uses]:
    """Return the atoms that a block uses, and the ``NEAREST`` uses of each."""
    order = cosine.argsort(descending=True, stable=True)
    order = order[atom[order].argsort(stable=True)]
    touched, group, count = atom[order].unique_consecutive(return_inverse=True, return_counts=True)
    place = torch.arange(len(order)) - (count.cumsum(0) - count)[group]
    shape = len(touched), NEAREST
    cosines, table = torch.full(shape, -torch.inf, dtype=torch.float64), torch.full((*shape, sources.shape[1]), -1)
    kept = place < NEAREST
    at = group[kept], place[kept]
    cosines[at], table[at] = cosine[order][kept], sources[order][kept]
    return touched, Uses(cosines, torch.full(shape, block), table)


def nearest_of(*parts: Uses) -> Uses:
    """Merge uses; keep the ``NEAREST`` of each atom. Of equal ones those of earlier blocks come first, then parts."""
    cosines, blocks, table = (torch.cat(of_all, dim=1) for of_all in zip(*parts, strict=True))
    order = blocks.argsort(dim=1, stable=True)
    order = order.gather(1, cosines.gather(1, order).argsort(dim=1, descending=True, stable=True))[:, :NEAREST]
    return Uses(cosines.gather(1, order), blocks.gather(1, order), table[torch.arange(len(table))[:, None], order])
