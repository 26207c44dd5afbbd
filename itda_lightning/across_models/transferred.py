"""A dictionary rebuilt in another model: the same sources, whose prompts that model reads."""

from typing import Any

import torch
from torch.nn import functional

from itda_lightning.across_models.at_sources import SourceActivations, at_sources, check_sources
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import CALIBRATION
from itda_lightning.activations.usable import usable
from itda_lightning.comparison.candidates import Candidate
from itda_lightning.comparison.comparison_settings import EntrySettings, FitSettings, RandomSettings
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import fit_metadata, settings
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.saelens import to_sae

# A native fit aims at so many times the atoms wanted, since calibration may fall short, and is cropped.
ROOM = 1.25


def transfer(dictionary: Dictionary, data: ActivationsDataModule, target: ActivationsDataModule) -> Dictionary:
    """The dictionary with the activations of another model at its sources as atoms.

    Atoms are centred where those of the dictionary are: by the other model's mean over the tokens that gave the dictionary's own
    mean (with another tokenizer, over as many tokens of the same documents, drawn alike), which is the bias of a native
    fit too. Refined atoms are not carried over: sources are all that is.

    Args:
        dictionary: with sources.
        data: the data of its fit; only its tokenizer and documents are needed.
        target: the data of the other model, with the same documents and a single hook point.

    Returns:
        The dictionary of the other model, ``metadata["transfer"]`` telling from where; atoms in the order of the original.
        Sources are of the same documents, rows and last characters; position, token and first character are as the other
        model read them.

    Raises:
        InputError: as ``check_sources`` and ``at_sources``; a mean of activations none of which is usable; atoms none
            of which differs from the mean.
    """
    sources = check_sources(dictionary.sources, data)
    (hook,) = target.hook_names
    read = at_sources(sources, data, target.language_model, target.hparams["model_batch_size"])
    fit = dictionary.metadata.get("fit") or {}
    bias = torch.zeros(read.x[hook].shape[1])
    if is_centred(dictionary):
        batch = target.calibration_batch(fit.get("calibration_tokens", CALIBRATION))
        x = batch.activations[hook]
        x = x[usable(x, batch.table, hook, "skip")]
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
    """Whether the dictionary subtracts a mean."""
    return bool(dictionary.bias.any())


def rivals(dictionary: Dictionary, n_atoms: int) -> tuple[EntrySettings, EntrySettings]:
    """What a transferred dictionary is measured against: a native fit, and random activations, encoded as it encodes.

    The native fit is of some more atoms: see ``cropped``.
    """
    fit = dictionary.metadata.get("fit") or {}
    encoding: dict[str, Any] = {
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "nonnegative": dictionary.nonnegative,
        "center": is_centred(dictionary),
    }
    rule = {name: fit[name] for name in ("growth", "energy_exponent") if name in fit}
    native = FitSettings(max_atoms=int(ROOM * n_atoms), **encoding, **rule)
    return EntrySettings("native fit", fit=native), EntrySettings("random", random=RandomSettings(n_atoms, **encoding))


def cropped(candidate: Candidate, n_atoms: int) -> Candidate:
    """The candidate with the first so many atoms of its dictionary (Section 4 of arXiv 2505.17769); all where it has fewer."""
    whole = candidate.entry.dictionary
    assert whole is not None
    sources = whole.sources
    first = Dictionary(
        whole.atoms[:n_atoms],
        whole.bias,
        None if sources is None else Sources(sources.table[:n_atoms], sources.dataset),
        k=whole.k,
        pursuit=whole.pursuit,
        nonnegative=whole.nonnegative,
        metadata=whole.metadata,
    )
    return candidate._replace(entry=Entry(candidate.entry.name, to_sae(first), first))


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
