"""Activations at the sources of a dictionary, in any language model that reads their prompts."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.across_models.source_sets import first_of_each
from itda_lightning.activations.batches import usable
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.text.retokenisation import ROW, places_of, retokenise
from itda_lightning.activations.text.rows import Rows
from itda_lightning.dictionary.sources import Prompt, Source, Sources
from itda_lightning.errors import InputError


@dataclass(frozen=True)
class SourceActivations:
    """Activations of a model at m of n sources, those that it reads."""

    x: Mapping[str, Float[Tensor, "m d"]]  # by hook point, float32
    index: Int[Tensor, " m"]  # rising indices of the sources
    # The sources as this model reads them: of the same rows, but with positions, tokens and spans of its own tokenizer.
    table: Int[Tensor, "m 6"]
    prompts: tuple[Prompt, ...]  # text of each row, cut at the token
    unaligned: int  # number of sources at whose last character no token of this model's tokenizer ends
    unusable: int  # number of sources whose activation is zero or not finite at a hook point


def check_sources(sources: Sources | None, data: ActivationsDataModule) -> Sources:
    """Return the sources after checking that they lie in the training rows of ``data``."""
    if sources is None or not len(sources):
        raise InputError(
            "the dictionary has no sources, so there are no prompts to run: give one that was fitted by this package"
        )
    rows, table = data.rows("train"), sources.table
    if sources.dataset != rows.dataset:
        raise InputError(
            f"the sources are of the documents {sources.dataset}, {data.hparams['dataset']} has the documents "
            f"{rows.dataset}: give the documents of the fit"
        )
    if not rows.hold(table):
        raise InputError(
            f"the sources do not lie in the training rows that the data settings give ({len(rows)} rows of "
            f"{rows.context_size} tokens): give the settings of the fit (tokens, context size, packing, seed, "
            "tokenizer)"
        )
    return sources


def at_sources(
    sources: Sources, data: ActivationsDataModule, language_model: LanguageModel, batch_size: int = 16
) -> SourceActivations:
    """Run the prompts of checked sources of a fit on ``data`` through any language model, reading only their rows.

    If its tokenizer splits the text otherwise, a source is the token that ends at the same character, and of several
    sources of one such token only the first is read. Raises InputError as ``retokenise``, and if none of the sources
    has a token or a usable activation in this model.
    """
    used, row = sources.table[:, ROW].unique(return_inverse=True)
    own = data.rows("train").select(used)
    rows = retokenise(
        own,
        data.tokenizer,
        language_model.tokenizer,
        prepend_bos=bool(data.hparams["prepend_bos"]),
        longest=language_model.longest_context,
    )
    table = sources.table.clone()
    table[:, ROW] = row
    position = table[:, ROW + 1] if rows is own else places_of(table, rows)
    _, place = torch.stack([row, position], dim=1).unique(dim=0, return_inverse=True)
    index = first_of_each(torch.where(position >= 0, place, -1))
    row, position = row[index], position[index]
    read = _harvest(rows, row, position, language_model, batch_size)
    table = rows.source_table(row, position)
    table[:, ROW] = used[row]
    good = torch.ones(len(index), dtype=torch.bool)
    for hook, x in read.items():
        good &= usable(x, table, hook, "skip")
    if not bool(good.any()):
        raise InputError(
            f"none of the {len(sources)} sources has a usable activation in {language_model.name.name}: "
            f"{len(sources) - len(index)} have no token of its tokenizer, {len(index)} are zero or not finite"
        )
    places = rows.source_table(row[good], position[good]).tolist()
    return SourceActivations(
        {hook: x[good] for hook, x in read.items()},
        index[good],
        table[good],
        tuple(rows.prompt(Source(*place)) for place in places),
        unaligned=len(sources) - len(index),
        unusable=int((~good).sum()),
    )


def _harvest(
    rows: Rows, row: Int[Tensor, " m"], position: Int[Tensor, " m"], language_model: LanguageModel, batch_size: int
) -> dict[str, Any]:
    x = {hook: torch.empty(len(row), width) for hook, width in language_model.widths.items()}
    parts = tqdm(
        harvest(language_model, rows, batch_size),
        desc="Prompts of sources",
        total=-(-len(rows) // batch_size),
        unit=" batches",
    )
    for part in parts:
        inside = (row >= part.first_row) & (row < part.first_row + batch_size)
        for hook, values in part.activations.items():
            x[hook][inside] = values[row[inside] - part.first_row, position[inside] - rows.first_position].float()
    return x
