"""Harvest activations at several hook points in one pass, from the model's own modules or with SAELens's store."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.text.rows import Rows
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import gather_rows, n_ranks, rank


class RowActivations(NamedTuple):
    """Activations of consecutive rows by hook point; positions begin at ``Rows.first_position``."""

    first_row: int
    activations: dict[str, Float[Tensor, "rows positions d"]]


class StoredActivations(ABC):
    """The activations of all rows of a split that can be read again: a cache on disk, or an array."""

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """The width d_in of every hook point."""

    @abstractmethod
    def read(self, start_row: int, stop_row: int) -> RowActivations:
        """Return the float32 activations of consecutive rows."""

    @abstractmethod
    def read_at(self, rows: Int[Tensor, " m"]) -> dict[str, Float[Tensor, "m positions d"]]:
        """Return the float32 activations of rows anywhere, in that order, by hook point."""


def harvest(
    language_model: LanguageModel, rows: Rows, model_batch_size: int, start_row: int = 0, stop_row: int | None = None
) -> Iterator[RowActivations]:
    """Yield activations of the rows ``start_row..stop_row`` in order, ``model_batch_size`` at a time, on the CPU."""
    stop_row = len(rows) if stop_row is None else stop_row
    if start_row >= stop_row:
        return
    check_tokens(rows, language_model.n_tokens, language_model.name.name)
    run = _run_modules if language_model.plain is not None else _run_store
    row, positions = start_row, rows.context_size - rows.first_position
    for activations in run(language_model, rows, model_batch_size, start_row, stop_row):
        n_rows = min(model_batch_size, stop_row - row)
        _check_shapes(activations, language_model, (n_rows, positions))
        yield RowActivations(row, {hook: values.detach().cpu() for hook, values in activations.items()})
        row += n_rows


def _run_modules(
    language_model: LanguageModel, rows: Rows, model_batch_size: int, start_row: int, stop_row: int
) -> Iterator[dict[str, Tensor]]:
    """Yield activations of batches of rows from the model's own modules."""
    assert language_model.plain is not None
    for tokens in rows.tokens[start_row:stop_row].split(model_batch_size):
        read = language_model.plain.read(tokens)
        yield {hook: values[:, rows.first_position :] for hook, values in read.items()}


def _run_store(
    language_model: LanguageModel, rows: Rows, model_batch_size: int, start_row: int, stop_row: int
) -> Iterator[dict[str, Tensor]]:
    """Yield activations of batches of rows with SAELens's ActivationsStore, which knows all hook points."""
    # It imports SAELens and `datasets`, for which whoever reads stored activations need not wait.
    from itda_lightning.activations.store import make_store

    store = make_store(language_model, rows, start_row, model_batch_size, stop_row)
    for row in range(start_row, stop_row, model_batch_size):
        with warnings.catch_warnings():
            # The store copies rows in a way that torch advises against.
            warnings.filterwarnings("ignore", message="To copy construct from a tensor")
            tokens = store.get_batch_tokens(min(model_batch_size, stop_row - row))
        with torch.no_grad():
            yield store.get_multi_hook_activations(tokens)


def check_tokens(rows: Rows, n_tokens: int, model: str) -> None:
    """Raise InputError if a model with embeddings of ``n_tokens`` tokens cannot read some token of the rows."""
    largest = int(rows.tokens.max())
    if largest >= n_tokens:
        raise InputError(
            f"the tokenizer of {model!r} gives the token {largest}, but the model has embeddings of the tokens 0 to "
            f"{n_tokens - 1} only: give it its own tokenizer, or resize its embeddings"
        )


def _check_shapes(activations: dict[str, Tensor], language_model: LanguageModel, shape: tuple[int, int]) -> None:
    """Raise InputError unless each hook point holds one activation per token of a batch of (rows, positions)."""
    for hook, values in activations.items():
        if tuple(values.shape) != (*shape, language_model.widths[hook]):
            raise InputError(
                f"the hook point {hook!r} of {language_model.name.name!r} does not hold one activation per token: "
                f"{shape[0]} rows of {shape[1]} positions give the shape {tuple(values.shape)}, not "
                f"{(*shape, language_model.widths[hook])}"
            )


def harvest_among_ranks(
    language_model: LanguageModel, rows: Rows, model_batch_size: int, start_row: int = 0
) -> Iterator[RowActivations]:
    """Harvest to the last row, all processes together: they take batches in turn, and each yields all of them."""
    if n_ranks() == 1:
        yield from harvest(language_model, rows, model_batch_size, start_row)
        return
    starts = range(start_row, len(rows), model_batch_size)
    my_starts = starts[rank() :: n_ranks()]
    my_rows = [row for start in my_starts for row in range(start, min(start + model_batch_size, len(rows)))]
    parts = harvest(language_model, rows.select(torch.tensor(my_rows, dtype=torch.int64)), model_batch_size)
    for first in range(0, len(starts), n_ranks()):
        together = starts[first : first + n_ranks()]
        counts = [min(model_batch_size, len(rows) - start) for start in together] + [0] * (n_ranks() - len(together))
        part = next(parts).activations if counts[rank()] else {}
        positions = rows.context_size - rows.first_position
        gathered = {
            hook: gather_rows(part.get(hook, torch.zeros(0, positions, width)).float(), counts).split(counts)
            for hook, width in language_model.widths.items()
        }
        for index, start in enumerate(together):
            yield RowActivations(start, {hook: values[index] for hook, values in gathered.items()})
