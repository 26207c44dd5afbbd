"""A language model and the rows that it reads, each opened on first use, and the identity of their activations."""

from abc import abstractmethod
from functools import cached_property
from typing import NamedTuple

import lightning as L
import torch

from itda_lightning.activations.harvesting import check_tokens
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.text.documents import Documents, load_documents
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.split import Split, split_rows
from itda_lightning.activations.text.tokenizer import Tokenizer
from itda_lightning.errors import InputError


class ActivationIdentity(NamedTuple):
    """All that decides what activations are; paths, devices and the language model's batches do not.

    Caches, checkpoints of fits and rows of comparisons are found again by it: it is equal exactly if the activations
    are. ``model``, ``dataset`` (the documents) and ``rows`` are fingerprints; ``model_dtype`` is that of weights and
    computation, ``cache_dtype`` that in which activations are stored, float32 without a cache.
    """

    model: str
    loader: str
    model_dtype: str
    cache_dtype: str
    hook_names: list[str]
    dataset: str
    rows: str

    def without_text(self) -> dict[str, str]:
        """Return what decides the activations of any rows at any hook point, by name."""
        return {name: getattr(self, name) for name in ("model", "loader", "model_dtype", "cache_dtype")}


class ModelAndRows(L.LightningDataModule):
    """The part of ``ActivationsDataModule`` that opens what activations are computed from."""

    model_name: LanguageModelName
    hook_names: list[str]  # that activations are given of
    read_points: list[str]  # that the model is read at; another list than ``hook_names`` if these are joint
    joint: bool = False

    def __init__(self) -> None:
        super().__init__()
        self._rows: dict[Split, Rows] = {}

    @cached_property
    def language_model(self) -> LanguageModel:
        """The language model, loaded on first use."""
        loaded = LanguageModel(self.model_name, self.read_points)
        self.check_context(loaded.longest_context)
        for rows in self._rows.values():
            check_tokens(rows, loaded.n_tokens, self.model_name.name)
        return loaded

    def release_model(self) -> None:
        """Free the memory of the language model; it is loaded again on its next use."""
        self.__dict__.pop("language_model", None)

    def check_context(self, longest: int | None) -> None:
        """Raise InputError if rows have more than ``longest`` tokens, the most that the model reads; None for any."""
        if longest is not None and (size := self.hparams["context_size"]) > longest:
            raise InputError(f"data.context_size is {size} but {self.model_name.name} reads at most {longest} tokens")

    @property
    @abstractmethod
    def widths(self) -> dict[str, int]:
        """The width d_in of every hook point."""

    def check_width(self, hook_name: str, d_in: int, width: int | None = None) -> None:
        """Raise InputError unless activations at a hook point (of a known width) are as wide as a dictionary."""
        width = self.widths[hook_name] if width is None else width
        if width != d_in:
            raise InputError(
                f"the dictionary has d_in {d_in} but {hook_name} of {self.model_name.name} has {width} dimensions: "
                "it was fitted on another model"
            )

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's fast tokenizer, loaded on first use without the model."""
        return self.model_name.load_tokenizer()

    @cached_property
    def documents(self) -> Documents:
        """The documents, opened on first use."""
        hp = self.hparams
        return load_documents(
            hp["dataset"],
            config=hp["dataset_config"],
            split=hp["dataset_split"],
            text_column=hp["text_column"],
            streaming=hp["streaming"],
            revision=hp["dataset_revision"],
        )

    @cached_property
    def dataset_fingerprint(self) -> str:
        """The fingerprint of the documents, by which sources of different fits are known to be of the same."""
        return self.documents.fingerprint

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split that a fit or a metric reads; no document has rows in both splits.

        Raises InputError if the documents hold fewer tokens than the split needs.
        """
        return self.cached_rows(split) if split == "heldout" else self._training_rows

    @cached_property
    def _training_rows(self) -> Rows:
        rows, tokens = self.cached_rows("train"), self.hparams["first_tokens"]
        return rows if tokens is None else rows.select(torch.arange(tokens // self.hparams["context_size"]))

    def cached_rows(self, split: Split) -> Rows:
        """Return the rows that the cache of a split holds. Raises as ``rows``.

        Those for training hold all ``training_tokens``, so that fits on several budgets (``first_tokens``) share them.
        """
        if split not in self._rows:
            rows = split_rows(split, self.documents, self.tokenizer, self.hparams)
            if "language_model" in self.__dict__:  # else they are checked when it is loaded
                check_tokens(rows, self.language_model.n_tokens, self.model_name.name)
            self._rows[split] = rows
        return self._rows[split]

    @property
    def identity(self) -> ActivationIdentity:
        """The identity of the training activations that a fit reads."""
        return self._identity(self.rows("train"))

    def _identity(self, rows: Rows) -> ActivationIdentity:
        hp = self.hparams
        stored = hp["cache_dtype"] if hp["cache_dir"] is not None else "float32"
        name, text = self.model_name, (rows.dataset, rows.fingerprint())
        return ActivationIdentity(self._model_fingerprint, name.loader, name.dtype, stored, self.read_points, *text)

    @cached_property
    def _model_fingerprint(self) -> str:
        # Computed once, since that of a local model reads all its weights.
        return self.model_name.fingerprint()
