"""A dictionary rebuilt in another model: the same sources, with the activations of that model as atoms."""

from typing import Any

import torch
from torch.nn import functional

from itda_lightning.across_models.source_activations import SourceActivations, at_sources, check_sources
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import CALIBRATION
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import fit_metadata, settings
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError


def transfer(dictionary: Dictionary, data: ActivationsDataModule, target: ActivationsDataModule) -> Dictionary:
    """Rebuild a dictionary in another model: run the prompts of its sources and take that model's activations as atoms.

    If the dictionary subtracts a mean, so does the result: the other model's mean over the tokens that gave the
    dictionary's own (with another tokenizer, over as many tokens of the same documents, drawn alike), which is also the
    bias of a native fit. Refinement of atoms is not carried over, as it is not in the sources.

    Args:
        dictionary: a dictionary with sources.
        data: data of its fit; only the tokenizer and the documents are needed.
        target: data of the other model, with the same documents and a single hook point.

    Returns:
        The other model's dictionary, atoms in the order of the original; ``metadata["transfer"]`` says where it comes
        from. Sources have the same documents, rows and last characters; position, token and first character are those
        that the other model reads.

    Raises:
        InputError: as ``check_sources`` and ``at_sources``; no usable activation to take a mean of; all atoms equal to
            the mean.
    """
    sources = check_sources(dictionary.sources, data)
    (hook,) = target.hook_names
    read = at_sources(sources, data, target.language_model, target.hparams["model_batch_size"])
    fit = dictionary.metadata.get("fit") or {}
    bias = torch.zeros(read.x[hook].shape[1])
    if is_centred(dictionary):
        batch = target.calibration_batch(fit.get("calibration_tokens", CALIBRATION))
        x = batch.usable(hook).x
        if not len(x):
            raise InputError(f"all {len(batch)} calibration activations at {hook} are zero or not finite")
        bias = x.double().mean(0).float()
    atoms = functional.normalize(read.x[hook] - bias, dim=1)
    return Dictionary(
        atoms,
        bias,
        Sources(read.table, sources.dataset, read.prompts),
        k=dictionary.k,
        pursuit=dictionary.pursuit,
        nonnegative=dictionary.nonnegative,
        metadata=_metadata(dictionary, target, hook, read),
    )


def is_centred(dictionary: Dictionary) -> bool:
    """Return True if the dictionary subtracts a mean."""
    return bool(dictionary.bias.any())


def _metadata(
    dictionary: Dictionary, target: ActivationsDataModule, hook: str, read: SourceActivations
) -> dict[str, Any]:
    own, n = dictionary.metadata, len(read.index)
    metadata = fit_metadata(
        hook,
        data=settings(target.hparams),
        fit=own.get("fit") or {"k": dictionary.k, "pursuit": dictionary.pursuit, "nonnegative": dictionary.nonnegative},
        threshold=None,
        seen=n,
        skipped=read.unusable,
        appended_at=torch.full((n,), n),
        history=[],
    )
    return metadata | {
        "transfer": {
            "model_name": own.get("model_name"),
            "hook_name": own.get("hook_name"),
            "n_atoms": dictionary.n_atoms,
            "unaligned": read.unaligned,
            "unusable": read.unusable,
            "atoms": read.index.tolist(),
        }
    }
