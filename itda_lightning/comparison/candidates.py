"""How an entry comes about: loaded, fitted, trained or drawn; what is made is kept on disk with what it cost."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sae_lens import SAE

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.comparison_settings import EntrySettings, FitSettings, RandomSettings
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.fitting.fit_in_memory import fit_in_memory
from itda_lightning.fitting.refinement import refine
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.machine.peak_memory import PeakMemory
from itda_lightning.results.comparison import Cost, Kind
from itda_lightning.saelens.anatomy import is_of_dictionary, n_parameters
from itda_lightning.saelens.controls import pca_sae, random_dictionary
from itda_lightning.saelens.training import train_sae

ARTIFACT, RECORD = "entry", "cost.json"
KINDS: dict[str, Kind] = {"fit": "itda", "train": "sae", "random": "random", "pca": "pca"}


class Candidate(NamedTuple):
    """An entry ready to be measured.

    Attributes:
        entry: the SAE, and the ITDA behind it where there is one.
        kind: what it is.
        cost: what it took, without the harvest.
        curve: (activations seen, FVU) while it was made.
        settings: name -> value for readers.
    """

    entry: Entry
    kind: Kind
    cost: Cost
    curve: tuple[tuple[int, float], ...]
    settings: dict[str, str]


def identity_of(wanted: EntrySettings, data: ActivationsDataModule) -> str:
    """Hash of all that decides what the entry is: its settings and its data, or the contents of its files.

    Raises:
        InputError: nothing to load at the path or release.
    """
    if wanted.way == "load":
        content: Any = _contents(str(wanted.load))
    else:
        identity = data.identity
        content = {
            "activations": identity.without_text(),
            "rows": identity.rows,
            "hook_names": identity.hook_names,
            # Of the sample that gives means and thresholds, and of the steps of a fit.
            **{name: data.hparams[name] for name in ("seed", "batch_size")},
            "settings": dataclasses.asdict(wanted.chosen),
        }
    return hash_of([wanted.way, content])


def make_candidate(
    wanted: EntrySettings, data: ActivationsDataModule, hook_name: str, made: Path, identity: str
) -> Candidate:
    """Load the entry, or make it unless ``made/IDENTITY`` holds it already.

    Raises:
        InputError: as ``load_entry``, ``train_sae``, ``random_dictionary``, ``pca_sae`` and a fit.
    """
    if wanted.way == "load":
        entry = load_entry(str(wanted.load), hook_name)
        kind: Kind = "itda" if is_of_dictionary(entry.sae) else "sae"
        cost, curve = _known_of(entry, Path(str(wanted.load)).expanduser())
        return Candidate(entry, kind, cost, curve, _described(entry))

    def make(directory: Path) -> None:
        cost, curve = _make(wanted, data, hook_name, directory / ARTIFACT)
        write_json(directory / RECORD, {"cost": dataclasses.asdict(cost), "curve": curve})

    place = made_once(made / identity, make)
    entry = load_entry(str(place / ARTIFACT), hook_name)._replace(name=wanted.name)
    facts = json.loads((place / RECORD).read_text(encoding="utf-8"))
    known = Cost(**facts["cost"])
    cost = dataclasses.replace(known, parameters=_parameters(entry), disk_bytes=_size(place / ARTIFACT))
    return Candidate(
        entry, KINDS[wanted.way], cost, _points(facts["curve"]), _described(entry) | _asked_for(wanted.chosen)
    )


def _make(
    wanted: EntrySettings, data: ActivationsDataModule, hook_name: str, place: Path
) -> tuple[Cost, tuple[tuple[int, float], ...]]:
    if wanted.train is not None:
        trained = train_sae(wanted.train, data, hook_name, place)
        seen, read = trained.activations_seen, trained.activations_read
        return Cost(trained.seconds, None, seen, read, trained.peak_bytes), trained.curve
    own = _data_of_fit(wanted.fit, data) if wanted.fit is not None else data
    start = time.perf_counter()
    with PeakMemory() as peak:
        if wanted.fit is not None:
            dictionary = _fit(wanted.fit, own)
            read = dictionary.metadata["activations_seen"]
            dictionary.save(place)
        elif wanted.random is not None:
            dictionary = _random(wanted.random, data, hook_name)
            read = dictionary.n_atoms
            dictionary.save(place)
        else:
            assert wanted.pca is not None
            sae: SAE[Any] = pca_sae(data, hook_name, wanted.pca.k, wanted.pca.tokens)
            read = sae.cfg.metadata["training"]["activations_seen"]
            sae.save_model(place)
    return Cost(time.perf_counter() - start, None, read, read, peak.bytes), ()


def _data_of_fit(wanted: FitSettings, data: ActivationsDataModule) -> ActivationsDataModule:
    first = data.hparams["first_tokens"] if wanted.tokens is None else wanted.tokens
    own = data.with_settings(first_tokens=first)
    own.prepare_data()  # tokenising is no more a part of the fit's time than of a training's
    return own


def _fit(wanted: FitSettings, data: ActivationsDataModule) -> Dictionary:
    module = wanted.module()
    fit_in_memory(module, data)
    if wanted.refine is not None:
        refine(module, data, wanted.refine)
    return module.finished_dictionary()


def _random(wanted: RandomSettings, data: ActivationsDataModule, hook_name: str) -> Dictionary:
    bias = None if wanted.center else torch.zeros(data.widths[hook_name])
    return random_dictionary(
        data,
        hook_name,
        wanted.n_atoms,
        wanted.k,
        wanted.pursuit,
        bias,
        wanted.seed,
        nonnegative=wanted.nonnegative,
        tokens=wanted.tokens,
    )


def _parameters(entry: Entry) -> int:
    """The numbers of an entry; of an ITDA its own, though an export as [D; -D] stores the atoms twice."""
    dictionary = entry.dictionary
    return n_parameters(entry.sae) if dictionary is None else dictionary.atoms.numel() + dictionary.bias.numel()


def _known_of(entry: Entry, path: Path) -> tuple[Cost, tuple[tuple[int, float], ...]]:
    """What is known of how a loaded entry came about: the facts of a fit or of a training by this package."""
    facts: dict[str, Any] = entry.sae.cfg.metadata.get("training") or {}
    if entry.dictionary is not None and "activations_seen" in entry.dictionary.metadata:
        seen = entry.dictionary.metadata["activations_seen"]
        curve = [(point["seen"], point["fvu"]) for point in entry.dictionary.metadata["validation"]]
        facts = {"activations_seen": seen, "activations_read": seen, "curve": curve}
    names = ("seconds", "activations_seen", "activations_read", "peak_bytes")
    cost = Cost(
        **{name: facts.get(name) for name in names},
        parameters=_parameters(entry),
        disk_bytes=_size(path) if path.exists() else None,
    )
    return cost, _points(facts.get("curve", ()))


def _points(curve: Iterable[Sequence[Any]]) -> tuple[tuple[int, float], ...]:
    return tuple((seen, fvu) for seen, fvu in curve)


def _described(entry: Entry) -> dict[str, str]:
    dictionary = entry.dictionary
    if dictionary is not None:
        return {
            "k": str(dictionary.k),
            "pursuit": dictionary.pursuit,
            "nonnegative": str(dictionary.nonnegative),
            "centred": str(bool(dictionary.bias.any())),
        }
    k = getattr(entry.sae.cfg, "k", None) or getattr(entry.sae.cfg, "max_iterations", None)
    return {} if k is None else {"k": str(k)}


def _asked_for(chosen: Any) -> dict[str, str]:
    return {name: str(value) for name, value in dataclasses.asdict(chosen).items() if value is not None}


def _contents(reference: str) -> str:
    """What tells one loaded entry from another: the files of a path, or the name of a release."""
    path = Path(reference).expanduser()
    if not path.exists():
        return reference
    digest = hashlib.sha256()
    for file in sorted(_files(path)):
        # Within the entry, so that it may be moved.
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**24):
                digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    """The files that hold the entry: of a run directory its dictionaries only."""
    if path.is_file():
        return [path]
    root = path / "dictionaries" if (path / "dictionaries").is_dir() else path
    return [file for file in root.rglob("*") if file.is_file()]
