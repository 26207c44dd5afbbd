"""Activations of several models at the same positions of the same text, as arrays: for a joint dictionary."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor

from itda_lightning.across_models.alignment import AlignedActivations, align, unit_of_alignment
from itda_lightning.across_models.compared_models import SameText
from itda_lightning.activations.text.split import most_tokens
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError
from itda_lightning.fitting.arguments import COMMAND_DEFAULTS
from itda_lightning.fitting.from_python import given_texts
from itda_lightning.machine.checks import check_at_least

SHOWN_BEFORE = 40  # characters of the text before a token


class AlignedArrays(NamedTuple):
    """Activations of several models at the same n positions of a text.

    Attributes:
        arrays: (n, width) float32 of each, by "model hook point"; for ``il.fit_activations``.
        sources: the token of each row in the first model, marked in the text before it.
        documents: the number of the document of each row.
        aligned_by: "tokens" if all models read the same, else "characters".
        left_out: number of positions at which an activation is zero or not finite in some model.
    """

    arrays: dict[str, Float[Tensor, "n _"]]
    sources: list[str]
    documents: list[int]
    aligned_by: str
    left_out: int


def aligned_activations(
    models: Mapping[str, Any],
    texts: str | Path | Sequence[str] | Dataset,
    *,
    tokens: int = 65_536,
    **settings: Any,
) -> AlignedArrays:
    """Return the activations of several models at the same positions of the same text, for a joint dictionary.

    Models of one tokenizer are aligned token by token. Others are aligned by characters: at the tokens that end at the
    same character of the same document. All are held in memory at once.

    Args:
        models: by any name, each as (model, hook points): a hub name, a directory or "bundled:smollm2-135m", and one or
            several hook points.
        texts: as of ``il.fit``.
        tokens: number of tokens of the first model that are read, at most all but a tenth of the documents; those that
            another model does not have are left out.
        settings: further arguments of ``ActivationsDataModule`` that all models share.

    Raises:
        InputError: fewer than two arrays, a model, hook point, text or setting that does not fit, or models of which no
            token ends at the same character.

    Example:
        >>> import itda_lightning as il
        >>> hook_name = "blocks.8.hook_resid_post"
        >>> # both = il.aligned_activations({"base": ("gpt2", hook_name), "tuned": ("runs/tuned", hook_name)}, texts)
        >>> # joint = il.fit_activations(both.arrays, sources=both.sources, k=96)
    """
    check_at_least(1, {"tokens": tokens})
    for name, one in models.items():
        if not isinstance(one, tuple) or len(one) != 2:
            raise InputError(f"models are by name (model, hook points), got {name!r}: {one!r}")
    hooks = {name: [points] if isinstance(points, str) else list(points) for name, (_, points) in models.items()}
    if sum(map(len, hooks.values())) < 2:
        raise InputError(f"joint activations are of at least two hook points, got {hooks}: add a model or a hook point")
    shared: dict[str, Any] = {"cache_dir": COMMAND_DEFAULTS["data.cache_dir"], "training_tokens": tokens} | settings
    path = given_texts(texts)
    opened = [SameText(str(model), hooks[name], path, **shared) for name, (model, _) in models.items()]
    first = opened[0]
    if first.hparams["cache_dir"] is None:
        raise InputError("activations are read more than once: set cache_dir")
    most = most_tokens("train", first.documents, first.tokenizer, first.hparams)
    # A split has at least one row; only the training rows are read.
    sizes = {"training_tokens": most, "validation_tokens": first.hparams["context_size"]}
    opened = [data.with_settings(**sizes) for data in opened]
    for data in opened[1:]:
        for split in ("train", "heldout"):
            data.read_the_text_of(opened[0], split)
    rows = [data.rows("train") for data in opened]
    unit = unit_of_alignment("auto", rows)
    common = align(rows, unit)
    for data in opened:
        data.prepare_data()
        data.release_model()
    activations = AlignedActivations(list(zip(opened, hooks.values(), strict=True)), common, "train")
    names = [f"{name} {hook}" for name, of_model in hooks.items() for hook in of_model]
    parts = [x for _, x in activations.batches("Aligned activations")]
    arrays = {name: torch.cat(of_name) for name, of_name in zip(names, zip(*parts, strict=True), strict=True)}
    places = activations.places
    table = rows[0].source_table(places[:, 0], places[:, 1]).tolist()
    prompts = [rows[0].prompt(Source(*source)) for source in table]
    sources = [f"{prompt.before[-SHOWN_BEFORE:]}[{prompt.token}]" for prompt in prompts]
    return AlignedArrays(arrays, sources, activations.documents.tolist(), unit, activations.left_out)
