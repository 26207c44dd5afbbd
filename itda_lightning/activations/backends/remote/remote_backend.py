"""The remote backend: NDIF runs the model and sends activations, one request per batch.

Batches are written to the cache file by file, so an interrupted run resumes after the last whole file.
"""

import importlib
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.backends.harvest_plan import PROCESS_BYTES, HarvestPlan
from itda_lightning.activations.backends.remote.retries import with_retries
from itda_lightning.activations.cache import SHARD_ROWS
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations, check_tokens
from itda_lightning.activations.models.foreign_code import no_foreign_code
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.skeleton import ResidualStream, decoder_config
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.split import SPLITS
from itda_lightning.errors import InputError


class ServedModel(ResidualStream):
    """A causal decoder on the server that nnsight is configured for; ``remote`` as in ``RemoteBackend``."""

    def __init__(self, name: LanguageModelName, remote: bool | str) -> None:
        try:
            self._nnsight: Any = importlib.import_module("nnsight")
        except ImportError as error:
            raise InputError(f"backend=remote needs nnsight ({error}): pip install 'itda-lightning[remote]'") from error
        path, tokenizer = name.path_or_hub_name(), name.load_tokenizer()
        decoder_config(path, name)
        with no_foreign_code(name.name):
            self._model: Any = self._nnsight.TransformersModel(
                path,
                task="text-generation",
                revision=name.revision,
                tokenizer=tokenizer,
                dtype=name.torch_dtype(),
                device=name.torch_device(),
            )
        super().__init__(self._model._module, name)
        self.remote = remote
        if remote is True:
            self._check_served()

    def read(
        self, tokens: Int[Tensor, "rows context"], levels: list[int], first_position: int
    ) -> dict[int, Float[Tensor, "rows positions d"]]:
        """Read the residual stream at ascending levels, from ``first_position`` on, in ``model_dtype`` on the CPU."""
        options = (self.layers_path, levels, tokens, first_position, self.remote, self._nnsight.save)
        request = partial(_trace, self._model, *options)
        read = with_retries(request, f"{tokens.numel():,} tokens") if self.remote is True else request()
        shape = (len(tokens), tokens.shape[1] - first_position, self.width)
        for level, values in zip(levels, read, strict=True):
            if tuple(values.shape) != shape:
                raise InputError(
                    f"the architecture {type(self._model._module).__name__} of {self.name.name!r} is not one that "
                    f"backend=remote knows: its residual stream at level {level} has the shape {tuple(values.shape)}, "
                    f"not {shape}; set backend=in_memory"
                )
            if values.dtype != self.name.torch_dtype():
                served = str(values.dtype).removeprefix("torch.")
                raise InputError(
                    f"the server computes {self.name.name!r} in {served}, not in data.model_dtype={self.name.dtype}: "
                    f"set data.model_dtype={served}"
                )
        return {level: values.detach().cpu() for level, values in zip(levels, read, strict=True)}

    def _check_served(self) -> None:
        api = self._nnsight.CONFIG.API
        if not api.APIKEY and api.HOST == "https://api.ndif.us":
            raise InputError(
                "NDIF needs a key: get one at https://login.ndif.us, then set NDIF_API_KEY or run `nnsight login`"
            )
        if Path(self.name.path_or_hub_name()).is_dir():
            raise InputError(
                f"the server runs models of the hub, and {self.name.name!r} is a directory of this machine: give a hub "
                "name, or set backend=in_memory or streamed"
            )
        try:
            key = self._model.to_model_key()
        except Exception as error:  # the hub client raises a dozen types
            raise InputError(
                f"nnsight asks the hub how {self.name.name!r} is spelt, which failed ({error}): check the network and "
                "unset HF_HUB_OFFLINE"
            ) from error
        model = json.loads(key.partition(":")[2])["repo_id"], self.name.revision or "main"
        served = with_retries(self._served, f"asking {api.HOST} what it serves")
        if model not in served:
            known = ", ".join(sorted(map("@".join, served))) or "nothing now"
            raise InputError(
                f"{api.HOST} does not serve {'@'.join(model)}, it serves {known}: choose one of these, wait until "
                "it is deployed, or set backend=streamed"
            )

    def _served(self) -> set[tuple[str, str]]:
        """Return (hub name, revision) of the models that the server runs, not of those that it only downloaded."""
        status = self._nnsight.status(raw=True)
        if not status:  # nnsight could not reach it
            raise ConnectionError("no answer")
        return {
            (deployed.get("repo_id", name), deployed.get("revision") or "main")
            for name, deployed in status.get("deployments", {}).items()
            if deployed.get("deployment_level") in ("HOT", "WARM")
        }


class RemoteBackend:
    """Harvests the activations of a DataModule, whose language model is not loaded, through nnsight.

    ``remote`` is nnsight's option: True for the NDIF server that nnsight is configured for, "local" for this machine
    through a serialised request, False for this machine.
    """

    def __init__(self, data: ActivationsDataModule, remote: bool | str = True) -> None:
        self.data = data
        self.model = ServedModel(data.model_name, remote)
        self.levels = self.model.levels(data.read_points)
        self.needed_levels = sorted(set(self.levels.values()))
        data.check_context(self.model.longest_context)
        for split in SPLITS:
            check_tokens(data.cached_rows(split), self.model.config.vocab_size, data.model_name.name)

    def plan(self) -> HarvestPlan:
        """Plan the whole harvest: no weights, and the memory of received and written activations."""
        data, width = self.data, self.model.width
        rows = [data.cached_rows(split) for split in SPLITS]
        positions = rows[0].context_size - rows[0].first_position
        row_bytes = positions * width * data.model_name.torch_dtype().itemsize
        received = row_bytes * len(self.needed_levels)
        # A batch is in memory as received and as unpacked.
        in_memory = data.hparams["model_batch_size"] * received + SHARD_ROWS * row_bytes * len(self.levels)
        return HarvestPlan.of(data, width, received=sum(map(len, rows)) * received, cpu=PROCESS_BYTES + 2 * in_memory)

    def fill(self) -> int:
        """Harvest what is missing in the caches and return its number of tokens; after an InputError a call resumes."""
        widths = dict.fromkeys(self.levels, self.model.width)
        caches = [cache for cache in map(self.data.cache, SPLITS) if cache is not None and not cache.complete]
        return sum(cache.fill(widths, partial(self._read, cache.rows)) for cache in caches)

    def _read(self, rows: Rows, start: int, stop: int) -> Iterator[RowActivations]:
        step = self.data.hparams["model_batch_size"]
        for row in range(start, stop, step):
            read = self.model.read(rows.tokens[row : min(row + step, stop)], self.needed_levels, rows.first_position)
            yield RowActivations(row, {hook: read[level] for hook, level in self.levels.items()})


@torch.no_grad()
def _trace(
    model: Any, path: str, levels: list[int], tokens: Tensor, first_position: int, remote: bool | str, save: Any
) -> list[Tensor]:
    """Read the residual stream; nnsight sends this source to the server, so it names nothing of this package."""
    layers = model.get(path)
    with model.trace(tokens, use_cache=False, remote=remote) as tracer:
        read = save([])
        for level in levels:
            stream = layers[level - 1].output if level else layers[0].input
            read.append((stream[0] if isinstance(stream, tuple) else stream)[:, first_position:])
        tracer.stop()
    return read
