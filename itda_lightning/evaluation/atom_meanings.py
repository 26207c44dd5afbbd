"""Describe atoms without any text: the atoms most like each, and the tokens that its direction promotes."""

import logging
from collections.abc import Iterator

import torch
from humanize import naturalsize
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.skeleton import directory_of
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.joint_atoms import SITE_SHARES
from itda_lightning.errors import InputError
from itda_lightning.evaluation.logit_effects import IN_THE_STREAM, Unembedding, token_texts
from itda_lightning.machine.memory import total_memory
from itda_lightning.results.run_results import AtomMeaning

logger = logging.getLogger(__name__)

NEAREST, TOKENS, BLOCK = 6, 8, 1024
# A page of a model that was read from a cache must not need the memory that the model does.
LARGEST_SHARE = 0.25  # of the machine's memory


def atom_meanings(dictionary: Dictionary, data: ActivationsDataModule, hook_name: str) -> tuple[AtomMeaning, ...]:
    """Return the nearest atoms of every atom and, if the model can be loaded for it, the tokens that it promotes."""
    effects = _effects(dictionary, data, hook_name)
    nearest = nearest_atoms(dictionary.atoms)
    shares: dict[str, list[float]] = dictionary.metadata.get(SITE_SHARES) or {}
    sites = zip(*shares.values(), strict=True) if shares else [()] * dictionary.n_atoms
    return tuple(
        AtomMeaning(near, *effect, sites=tuple(zip(shares, of_atom, strict=True)))
        for near, effect, of_atom in zip(nearest, effects, sites, strict=True)
    )


def nearest_atoms(atoms: Float[Tensor, "n d"]) -> Iterator[tuple[tuple[int, float], ...]]:
    """Yield for every atom the others with the largest cosines above 0, the largest first."""
    unit = normalize(atoms.detach().float(), dim=1)
    for start in range(0, len(unit), BLOCK):
        cosines = unit[start : start + BLOCK] @ unit.T
        rows = torch.arange(len(cosines))
        cosines[rows, rows + start] = -1
        found = cosines.topk(min(NEAREST, len(unit)), dim=1)
        for values, indices in zip(found.values.tolist(), found.indices.tolist(), strict=True):
            yield tuple((index, value) for index, value in zip(indices, values, strict=True) if value > 0)


def _effects(
    dictionary: Dictionary, data: ActivationsDataModule, hook_name: str
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Return (promoted, suppressed) tokens of every atom, empty if they cannot be told."""
    unembedding = None
    if IN_THE_STREAM.search(hook_name) and data.model_name.loader != "huggingface" and _is_small(data):
        unembedding = Unembedding.of(data.language_model, hook_name)
    if unembedding is None:
        return [((), ())] * dictionary.n_atoms
    ids = unembedding.effects(dictionary.atoms, TOKENS)
    every = ids.unique()
    texts = dict(zip(every.tolist(), token_texts(data.tokenizer, every.tolist()), strict=True))
    promoted, suppressed = ([tuple(texts[token] for token in row) for row in part] for part in ids.tolist())
    return list(zip(promoted, suppressed, strict=True))


def _is_small(data: ActivationsDataModule) -> bool:
    if "language_model" in vars(data):
        return True
    try:
        files = list(directory_of(data.model_name).glob("*"))
    except InputError:
        return False
    size = sum(file.stat().st_size for file in files if file.suffix in (".safetensors", ".bin"))
    if size > LARGEST_SHARE * total_memory(torch.device("cpu")):
        logger.info("promoted tokens are left out: the language model takes %s of memory", naturalsize(size))
        return False
    return True
