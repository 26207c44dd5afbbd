"""A dictionary rebuilt in another model, measured there against a native fit and random activations of the same size.

It has the same sources, with the activations of that model as atoms.
"""

import logging
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from itda_lightning.across_models.source_activations import at_sources, check_sources
from itda_lightning.across_models.source_sets import cropped
from itda_lightning.activations.batches import NONE_USABLE
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.shuffled import CALIBRATION
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings, FitSettings, RandomSettings
from itda_lightning.comparison.side_by_side import facts_of
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import fit_metadata, settings
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.bundled_names import in_words
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.saelens import to_sae

logger = logging.getLogger(__name__)

# A native fit aims at this many times the atoms, since calibration may fall short, and is cropped.
ROOM = 1.25


def transfer_and_measure(
    dictionary: Dictionary,
    hook_name: str,
    data: ActivationsDataModule,
    target: ActivationsDataModule,
    directory: Path,
    loss_tokens: int,
) -> Comparison:
    """Transfer a dictionary into a run directory and measure it on held-out tokens of its new model.

    ``data`` and ``target`` as in ``transfer``. Raises InputError as ``transfer`` and ``Bench``. Nothing is written if
    the model does not load.
    """
    (hook,) = target.hook_names
    transferred = EntrySettings("transferred", load=str(directory / DICTIONARIES / hook))
    bench = Bench(target, ComparisonSettings([transferred], str(directory), loss_tokens=loss_tokens))
    target.rows("train")
    _ = target.language_model
    write_json(directory / "versions.json", versions_and_hardware(), ())
    target.prepare_data()
    rebuilt = transfer(dictionary, data, target)
    rebuilt.save(directory / DICTIONARIES / hook)
    origin = rebuilt.metadata["transfer"]
    facts = {
        "dictionary of": f"{origin['model_name']} at {hook_name}",
        "atoms rebuilt": f"{rebuilt.n_atoms:,} of {dictionary.n_atoms:,}",
        "sources without a token of their own": f"{origin['unaligned']:,}",
        "sources without a usable activation": f"{origin['unusable']:,}",
    }
    logger.info("; ".join(f"{name}: {value}" for name, value in facts.items()))
    entries = (transferred, *rivals(rebuilt, rebuilt.n_atoms))
    return Comparison(
        title=f"A dictionary of {facts['dictionary of']} in {in_words(target.model_name.name)} at {hook}",
        facts=facts | facts_of(bench),
        rows=tuple(_measure(entry, rebuilt.n_atoms, bench, directory / "made") for entry in entries),
    )


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
    own, encoding = dictionary.metadata, _encoding(dictionary)
    fit, n = own.get("fit") or encoding, len(read.index)
    bias = torch.zeros(read.x[hook].shape[1])
    if bool(dictionary.bias.any()):
        batch = target.calibration_batch(fit.get("calibration_tokens", CALIBRATION))
        x = batch.usable(hook).x
        if not len(x):
            all_bad = f"all {len(batch)} calibration activations at {hook} are zero or not finite"
            raise InputError(f"{all_bad}: {NONE_USABLE}")
        bias = x.double().mean(0).float()
    metadata = fit_metadata(
        hook,
        data=settings(target.hparams),
        fit=fit,
        threshold=None,
        seen=n,
        skipped=read.unusable,
        appended_at=torch.full((n,), n),
        history=[],
    )
    origin = {
        "model_name": own.get("model_name"),
        "hook_name": own.get("hook_name"),
        "n_atoms": dictionary.n_atoms,
        "unaligned": read.unaligned,
        "unusable": read.unusable,
        "atoms": read.index.tolist(),
    }
    return Dictionary(
        functional.normalize(read.x[hook] - bias, dim=1),
        bias,
        Sources(read.table, sources.dataset, read.prompts),
        **encoding,
        metadata=metadata | {"transfer": origin},
    )


def rivals(dictionary: Dictionary, n_atoms: int) -> tuple[EntrySettings, EntrySettings]:
    """Return settings of the rivals of a transferred dictionary: a native fit and random atoms, encoding alike.

    The native fit has some more atoms, to be cropped.
    """
    fit = dictionary.metadata.get("fit") or {}
    encoding = _encoding(dictionary) | {"center": bool(dictionary.bias.any())}
    rule = {name: fit[name] for name in ("growth", "energy_exponent") if name in fit}
    native = FitSettings(max_atoms=int(ROOM * n_atoms), **encoding, **rule)
    random = RandomSettings(n_atoms, **encoding)
    return EntrySettings("native fit", fit=native), EntrySettings("random atoms", random=random)


def _encoding(dictionary: Dictionary) -> dict[str, Any]:
    return {name: getattr(dictionary, name) for name in ("k", "pursuit", "nonnegative")}


def _measure(entry: EntrySettings, n_atoms: int, bench: Bench, made: Path) -> Row:
    """Make an entry, crop it to its first ``n_atoms`` (Section 4 of arXiv 2505.17769) and measure it."""
    logger.info("%s: making and measuring", entry.name)
    identity = identity_of(entry, bench.data)
    candidate = make_candidate(entry, bench.data, bench.hook_name, made, identity)
    whole = candidate.entry.dictionary
    assert whole is not None
    first = cropped(whole, slice(n_atoms))
    candidate = candidate._replace(entry=Entry(candidate.entry.name, to_sae(first), first))
    return bench.measure(entry.name, candidate, bench.identity(identity))
