"""A language model that the user has loaded, in the place of one that is loaded by its name."""

from dataclasses import dataclass
from typing import Any

import torch
import xxhash

from itda_lightning.activations.models.model_name import DTYPES, LanguageModelName
from itda_lightning.errors import InputError
from itda_lightning.machine.choices import Loader

UNNAMED = "a model without a name"


@dataclass(frozen=True, eq=False)
class GivenModel(LanguageModelName):
    """A loaded model with its tokenizer; ``name`` is where it came from, by which it may be loaded again.

    Attributes:
        model: TransformerLens's bridge or HookedTransformer, or a model of `transformers`. It is run as it is.
        tokenizer: its fast tokenizer.
    """

    model: Any = None
    tokenizer: Any = None

    @classmethod
    def of(cls, model: Any, tokenizer: Any = None) -> "GivenModel":
        """Name a loaded model. Raises InputError for what is none, is in training mode or has no tokenizer."""
        # Whoever loaded one waited for them; whoever gives a name need not.
        from transformer_lens import HookedTransformer
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import PreTrainedModel

        tokenizer = getattr(model, "tokenizer", None) if tokenizer is None else tokenizer
        loader: Loader
        if isinstance(model, TransformerBridge):
            config, loader = model.original_model.config, "bridge"
        elif isinstance(model, HookedTransformer):
            config, loader = model.cfg, "hooked_transformer"
        elif isinstance(model, PreTrainedModel):
            config, loader = model.config, "huggingface"
        else:
            raise InputError(
                "model must be a name, a directory, a HookedTransformer, TransformerLens's bridge or a model of "
                f"transformers, got {type(model).__name__}"
            )
        if model.training:
            raise InputError("the model is in training mode, in which activations are random: call model.eval() first")
        if tokenizer is None:
            raise InputError(f"the {type(model).__name__} has no tokenizer: give it as tokenizer=...")
        name = str(getattr(config, "_name_or_path", None) or getattr(config, "model_name", None) or UNNAMED)
        parameter = next(model.parameters())
        dtype = next((known for known, value in DTYPES.items() if value == parameter.dtype), str(parameter.dtype))
        return cls(name, loader, None, dtype, str(parameter.device), model, tokenizer)

    def load_tokenizer(self) -> Any:
        """Return the tokenizer that was given."""
        return self.tokenizer

    def fingerprint(self) -> str:
        """Return a hash of the weights, their names and the class."""
        digest = xxhash.xxh3_128(type(self.model).__name__.encode())
        for name, value in self.model.state_dict().items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return f"given {digest.hexdigest()}"
