"""Language models that are loaded, with the hook points to read."""

import logging
from typing import Any

from itda_lightning.activations.models.foreign_code import no_foreign_code
from itda_lightning.activations.models.model_name import LanguageModelName, first_line
from itda_lightning.activations.models.trial_run import n_embeddings
from itda_lightning.errors import InputError
from itda_lightning.machine.bundled_names import described
from itda_lightning.machine.memory import TOO_LITTLE_MEMORY, is_out_of_memory

logger = logging.getLogger(__name__)


class LanguageModel:
    """A loaded language model with the hook points to read and their widths.

    Attributes:
        model: the ``HookedRootModule`` that SAELens's store and evals take.
        plain: what reads the hook points from the model's own modules, faster; None if one of them is no module's.
        tokenizer: its fast tokenizer.
        widths: hook point -> d_in.
        longest_context: maximal number of tokens that the model reads; None if unknown.
        n_tokens: number of tokens that it has embeddings of.

    Raises:
        InputError: a model that cannot be loaded or run, an unavailable device, an unknown hook point or one that does
            not hold one activation per token, or one where TransformerLens does not give the model's own activations.
    """

    def __init__(self, name: LanguageModelName, hook_names: list[str]) -> None:
        # They import SAELens and TransformerLens, for which whoever reads stored activations need not wait.
        from itda_lightning.activations.models.hook_points import widths_of
        from itda_lightning.activations.models.loaders import load
        from itda_lightning.activations.models.own_activations import OwnModel
        from itda_lightning.activations.models.plain_model import plain_model

        self.name = name
        device = name.torch_device()
        name.torch_dtype()
        own = OwnModel(device, hook_names)
        logger.info("loading the language model %s (%s, %s, %s)", described(name.name), name.loader, name.dtype, device)
        try:
            with no_foreign_code(name.name):
                self.model: Any = load(name, hook_names, own)
        except InputError:
            raise
        except Exception as error:  # loaders raise anything from KeyError to OSError for an unknown name
            if is_out_of_memory(error):
                raise InputError(
                    f"loading the language model {name.name!r} {TOO_LITTLE_MEMORY} ({type(error).__name__}: "
                    f"{first_line(error)})"
                ) from error
            raise InputError(
                f"cannot load the language model {name.name!r} with loader {name.loader!r}: "
                f"{type(error).__name__}: {first_line(error)}; "
                "check the name, the loader and that its files are complete"
            ) from error
        self.tokenizer: Any = self.model.tokenizer
        config = self.model.model.config if name.loader == "huggingface" else self.model.cfg
        limit = "max_position_embeddings" if name.loader == "huggingface" else "n_ctx"
        self.longest_context: int | None = getattr(config, limit, None)
        hf_model = {"huggingface": "model", "bridge": "original_model"}.get(name.loader)
        self.n_tokens: int = self.model.cfg.d_vocab if hf_model is None else n_embeddings(getattr(self.model, hf_model))
        longest = self.longest_context
        self.widths = widths_of(self.model, name.name, name.loader, hook_names, self.n_tokens, longest, own)
        self.plain = plain_model(self.model, name, hook_names, own)
