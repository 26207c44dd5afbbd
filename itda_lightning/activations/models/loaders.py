"""Load language models by SAELens, TransformerLens or `transformers`."""

from typing import Any

from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.load_model import HookedProxyLM, load_model
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from itda_lightning.activations.models.adapters import check_no_adapter
from itda_lightning.activations.models.given_model import GivenModel
from itda_lightning.activations.models.hook_points import no_such_hook_point
from itda_lightning.activations.models.model_name import BALANCED, LanguageModelName
from itda_lightning.activations.models.own_activations import OwnModel
from itda_lightning.activations.models.quantised import quantizer_of
from itda_lightning.machine.paths import is_directory


def load(name: LanguageModelName, hook_names: list[str], own: OwnModel) -> Any:
    """Load a model, or prepare one that was given, as what SAELens's store runs; ``own`` gets the runs of its modules.

    Raises anything, of the libraries that load it; InputError for an unknown hook point of a model of `transformers`.
    """
    if isinstance(name, GivenModel):
        return _prepared(name, hook_names)
    device, dtype = name.torch_device(), name.torch_dtype()
    path, options = name.path_or_hub_name(), dict[str, Any](dtype=dtype)
    plainly: dict[str, Any] = {"revision": name.revision, "trust_remote_code": False}
    if name.loader == "hooked_transformer":
        if is_directory(path):
            raise ValueError("it loads the models that TransformerLens names, no directories: set loader=bridge")
        weights = _weights(path, plainly | options, own)
        revision = {"revision": name.revision} if name.revision else {}
        return load_model("HookedTransformer", path, device, options | revision | weights)
    check_no_adapter(path, name.revision)
    quantizer_of(AutoConfig.from_pretrained(path, **plainly), path, dtype)
    spread = BALANCED if name.device == BALANCED else None
    if name.loader == "huggingface" or name.revision is not None:  # which the bridge ignores
        hf_model: Any = AutoModelForCausalLM.from_pretrained(path, device_map=spread, **plainly, **options)
        options = {"hf_model": hf_model, "tokenizer": AutoTokenizer.from_pretrained(path, **plainly)}
    if name.loader == "huggingface":
        return _proxy(hf_model if spread else hf_model.to(device), options["tokenizer"], name.name, hook_names)
    if "hf_model" in options:
        own.record(options["hf_model"].to(device))
    else:
        options["model_class"] = own
    return _with_usual_names(SAETransformerBridge.boot_transformers(path, device=device, **options))


def _prepared(given: GivenModel, hook_names: list[str]) -> Any:
    if given.loader == "huggingface":
        return _proxy(given.model, given.tokenizer, given.name, hook_names)
    if given.loader == "bridge" and not given.model.compatibility_mode:
        return _with_usual_names(given.model)
    return given.model


def _proxy(hf_model: Any, tokenizer: Any, name: str, hook_names: list[str]) -> HookedProxyLM:
    modules = [module for module, _ in hf_model.named_modules() if module]
    for hook_name in hook_names:
        if hook_name not in modules:
            raise no_such_hook_point(name, hook_name, modules)
    return HookedProxyLM(hf_model, tokenizer, hook_names=hook_names)


def _with_usual_names(bridge: Any) -> Any:
    # Without this, the usual hook names (aliases) silently cache nothing.
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return bridge


def _weights(path: str, options: dict[str, Any], own: OwnModel) -> dict[str, Any]:
    """Load and run the model whose weights a ``HookedTransformer`` takes; nothing for one not of `transformers`."""
    try:
        AutoConfig.from_pretrained(path, **options)
    except Exception:  # transformers raises anything; loading the HookedTransformer says what is wrong
        return {}
    hf_model: Any = AutoModelForCausalLM.from_pretrained(path, **options)
    own.record(hf_model)
    return {"hf_model": hf_model}
