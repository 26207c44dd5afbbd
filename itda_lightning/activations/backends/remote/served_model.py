"""A causal decoder that a server runs through nnsight: a skeleton here, the residual stream by request."""

import importlib
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.backends.remote.retries import with_retries
from itda_lightning.activations.models.language_model import LanguageModelName
from itda_lightning.activations.models.residual_stream import find_layers, level_of
from itda_lightning.activations.models.skeleton import attention_of, decoder_config
from itda_lightning.errors import InputError

# NDIF's own server, which needs a key.
NDIF = "https://api.ndif.us"
# Models at other levels were downloaded by the server, but do not run.
DEPLOYED = {"HOT", "WARM"}


class ServedModel:
    """A causal decoder on the server that nnsight is configured for.

    Attributes:
        width: d_in of the residual stream.
        longest_context: maximal number of tokens that the model reads; None if unknown.

    Args:
        name: the model.
        remote: nnsight's option: True for the server, "local" for this machine through a serialised request, False for
            this machine.

    Raises:
        InputError: nnsight or the key is missing, the server does not serve the model, an unknown architecture.
    """

    def __init__(self, name: LanguageModelName, remote: bool | str) -> None:
        self.name, self.remote = name, remote
        try:
            self._nnsight: Any = importlib.import_module("nnsight")
        except ImportError as error:
            raise InputError(f"backend=remote needs nnsight ({error}): pip install 'itda-lightning[remote]'") from error
        path, tokenizer = name.path_or_hub_name(), name.load_tokenizer()
        decoder_config(path, name)
        self._model: Any = self._nnsight.TransformersModel(
            path,
            task="text-generation",
            revision=name.revision,
            tokenizer=tokenizer,
            dtype=name.torch_dtype(),
            device=name.torch_device(),
            **attention_of(name),
        )
        skeleton = self._model._module
        config: Any = skeleton.config.get_text_config()
        self.width: int = config.hidden_size
        self.longest_context: int | None = getattr(config, "max_position_embeddings", None)
        self._path, self._n_layers = find_layers(skeleton, name), config.num_hidden_layers
        if remote is True:
            self._check_served()

    def level(self, hook_name: str) -> int:
        """Return the level of a hook point. Raises InputError for one outside of the residual stream between layers."""
        return level_of(hook_name, self.name, self._path, self._n_layers)

    def read(
        self, tokens: Int[Tensor, "rows context"], levels: list[int], first_position: int
    ) -> dict[int, Float[Tensor, "rows positions d"]]:
        """Read the residual stream at ascending levels, from ``first_position`` on, in ``model_dtype`` on the CPU.

        Raises:
            InputError: the server cannot be reached or refuses; its model has another architecture or dtype.
        """
        request = partial(
            _trace, self._model, self._path, levels, tokens, first_position, self.remote, self._nnsight.save
        )
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
        """Check that the server serves the model; runs nothing there."""
        api = self._nnsight.CONFIG.API
        if not api.APIKEY and api.HOST == NDIF:
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
        """Return (hub name, revision) of the models that the server runs."""
        status = self._nnsight.status(raw=True)
        if not status:  # nnsight could not reach it
            raise ConnectionError("no answer")
        return {
            (deployed.get("repo_id", name), deployed.get("revision") or "main")
            for name, deployed in status.get("deployments", {}).items()
            if deployed.get("deployment_level") in DEPLOYED
        }


@torch.no_grad()
def _trace(
    model: Any, path: str, levels: list[int], tokens: Tensor, first_position: int, remote: bool | str, save: Any
) -> list[Tensor]:
    """Read the residual stream at ascending levels.

    nnsight sends the source of the block to the server, so it names nothing of this package.
    """
    layers = model.get(path)
    with model.trace(tokens, use_cache=False, remote=remote) as tracer:
        read = save([])
        for level in levels:
            stream = layers[level - 1].output if level else layers[0].input
            read.append((stream[0] if isinstance(stream, tuple) else stream)[:, first_position:])
        tracer.stop()
    return read
