"""Relabelling: name each refined atom by the training activation that it is most like among those that use it."""

import logging
import time

import torch
from torch.nn.functional import normalize
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import TrainingRows
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.machine.processes import gather_rows, n_ranks, rank

logger = logging.getLogger(__name__)

# Activations whose products with an atom of each code are held at a time.
PART = 1024


def relabel(module: ITDA, data: ActivationsDataModule, settings: RefinementSettings) -> float:
    """Relabel every refined dictionary of a module in place if the settings say so; return the seconds.

    The same bits on any number of processes. If it is killed, it starts again. Raises InputError like ``TrainingRows``.
    """
    start = time.perf_counter()
    for hook, facts in module.refinements.items():
        if not settings.relabel or "mean_label_cosine" in facts:
            continue
        begun, dictionary = time.perf_counter(), module.dictionary(hook)
        home = dictionary.bias.device
        labels = nearest_uses(dictionary.to(data.model_name.torch_device()), TrainingRows(data, hook))
        dictionary.to(home).relabel(labels)
        facts["mean_label_cosine"] = float(labels.cosines.mean())
        logger.info(
            "relabelled %d atoms at %s in %.1f s: mean cosine with the labels %.4f, with the sources %.4f",
            *(dictionary.n_atoms, hook, time.perf_counter() - begun, facts["mean_label_cosine"], facts["mean_cosine"]),
        )
    return time.perf_counter() - start


def nearest_uses(dictionary: Dictionary, rows: TrainingRows) -> Labels:
    """Return for each atom the activation with the largest cosine with it among those whose code uses it.

    Of equal ones the first in the order of the data. An atom that no code uses keeps its first source. Processes take
    turns with the blocks of rows.
    """
    n, atoms = dictionary.n_atoms, normalize(dictionary.atoms.double(), dim=1)
    table, cosines = dictionary.source_table.cpu().clone(), torch.full((n,), -torch.inf, dtype=torch.float64)
    block_of = torch.full((n,), len(rows.blocks))
    for number, block in enumerate(tqdm(rows.blocks, desc=f"Relabel {rows.hook_name}", disable=rank() > 0)):
        if number % n_ranks() != rank():
            continue
        activations = rows.usable(*block)
        for x, sources in zip(activations.x.split(PART), activations.table.split(PART), strict=True):
            x = x.to(atoms.device)
            code = dictionary.encode(x)
            unit = normalize(dictionary.centre(x).double(), dim=1)
            products = torch.stack([(unit * atoms[column]).sum(1) for column in code.support.clamp(min=0).T], dim=1)
            used = code.coefficients != 0
            atom, cosine, token = code.support[used].cpu(), products[used].cpu(), used.nonzero()[:, 0].cpu()
            best = torch.full_like(cosines, -torch.inf).scatter_reduce(0, atom, cosine, "amax")
            token = torch.where(cosine == best[atom], token, len(x))
            first = torch.full_like(block_of, len(x)).scatter_reduce(0, atom, token, "amin")
            nearer = best > cosines
            cosines[nearer], table[nearer], block_of[nearer] = best[nearer], sources[first[nearer]], number
    of_all = [gather_rows(own[None], [1] * n_ranks()) for own in (cosines, block_of, table)]
    cosines = of_all[0].amax(0)
    owner = torch.where(of_all[0] == cosines, of_all[1], len(rows.blocks)).argmin(0)
    firsts = dictionary.cosines
    unused = torch.ones_like(cosines) if firsts is None else firsts.cpu()
    return Labels(of_all[2][owner, torch.arange(n)], torch.where(cosines.isfinite(), cosines, unused))
