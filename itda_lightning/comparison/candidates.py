"""Candidates of a comparison: loaded, or fitted, trained or drawn once and kept on disk with their cost."""

import dataclasses
import hashlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
from sae_lens import SAE

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.comparison_settings import EntrySettings
from itda_lightning.comparison.recorded_costs import cost_files, known_of, training_of
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.evaluation.verification import ENTRY, RECORD, files_of_entry
from itda_lightning.fitting.loading import downloaded
from itda_lightning.fitting.refinement import refine
from itda_lightning.fitting.relabelling import relabel
from itda_lightning.fitting.run_directory import DICTIONARIES
from itda_lightning.fitting.trainer import fit_in_memory
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.digests import read_signed_json
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.machine.memory import PeakMemory
from itda_lightning.machine.part_files import is_part
from itda_lightning.machine.schema import check_schema
from itda_lightning.results.comparison import CONTROLS, Cost, Encoding, Kind
from itda_lightning.saelens.anatomy import is_of_dictionary
from itda_lightning.saelens.centroids import kmeans_dictionary
from itda_lightning.saelens.controls import pca_sae, random_dictionary
from itda_lightning.saelens.training import train_sae

KINDS: dict[str, Kind] = {"fit": "itda", "train": "sae", "random": "random", "kmeans": "kmeans", "pca": "pca"}

LATER_DEFAULTS = {
    "least_gain": 0.0,
    "l0": None,
    "unmix": None,
    "relabel": False,
    "start": None,
    "decoder": "trained",
    "detected": False,
}


class CostFields(TypedDict, total=False):
    """Types of the fields of ``Cost``."""

    seconds: float | None
    harvest_seconds: float | None
    activations_seen: int | None
    activations_read: int | None
    peak_bytes: int | None
    parameters: int | None
    disk_bytes: int | None
    encoded_per_second: float | None


class Record(TypedDict):
    """Types of what stands in ``RECORD``."""

    cost: CostFields
    curve: list[tuple[int, float]]


class Candidate(NamedTuple):
    """An entry ready to be measured.

    ``cost`` is what making it took, without the harvest; ``curve`` are (activations seen, FVU) while it was made;
    ``settings`` are for readers; ``decay_from`` is the share of a training from which on its learning rate falls.
    """

    entry: Entry
    kind: Kind
    cost: Cost
    curve: tuple[tuple[int, float], ...]
    settings: dict[str, str]
    decay_from: float | None = None


def identity_of(settings: EntrySettings, data: ActivationsDataModule) -> str:
    """Return the hash of all that decides an entry: its settings and its data, or the contents of its files."""
    if settings.way == "load":
        content: Any = _contents(str(settings.load))
    else:
        identity = data.identity
        content = {
            "activations": identity.without_text(),
            "rows": identity.rows,
            "hook_names": identity.hook_names,
            # The seed of the sample for means and thresholds, and the size of the steps of a fit.
            **{name: data.hparams[name] for name in ("seed", "batch_size")},
            "settings": dataclasses.asdict(settings.chosen, dict_factory=without_later_defaults),
        }
    recorded = ["with its recorded costs"] if settings.way == "load" else []
    return hash_of([settings.way, content, *recorded])


def without_later_defaults(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Leave out settings of later versions that change nothing, so that entries made before them are found."""
    return {name: value for name, value in fields if name not in LATER_DEFAULTS or value != LATER_DEFAULTS[name]}


def make_candidate(
    settings: EntrySettings, data: ActivationsDataModule, hook_name: str, made: Path, identity: str
) -> Candidate:
    """Load an entry, or make it unless ``made/IDENTITY`` holds it already; ``identity`` is its ``identity_of``.

    Raises:
        InputError: as ``load_entry``, ``train_sae``, ``random_dictionary``, ``kmeans_dictionary``, ``pca_sae`` and a
            fit.
    """
    chosen: dict[str, str] = {}
    if settings.way == "load":
        place = downloaded(str(settings.load))
        entry = load_entry(str(settings.load), hook_name)
        kind = _kind_of_loaded(entry)
        cost, curve = known_of(entry, str(settings.load))
    else:

        def make(directory: Path) -> None:
            cost, curve = _make(settings, data, hook_name, directory / ENTRY)
            # Its digest covers the entry, too.
            write_json(
                directory / RECORD, {"cost": dataclasses.asdict(cost), "curve": curve}, files_of_entry(directory)
            )

        place = made_once(made / identity, make) / ENTRY
        remedy = f"remove {place.parent} and run again, which makes it anew"
        facts = read_signed_json(place.with_name(RECORD), remedy, files_of_entry(place.parent))
        check_schema(facts, Record, str(place.with_name(RECORD)), remedy)
        entry = load_entry(str(place), hook_name)._replace(name=settings.name)
        kind = kind_of(settings)
        cost, curve = Cost(**facts["cost"]), facts["curve"]
        chosen = {name: str(value) for name, value in dataclasses.asdict(settings.chosen).items() if value is not None}
    # Atoms count once even if an export as [D; -D] stores them twice.
    parts: Iterable[torch.Tensor] = (
        entry.sae.parameters() if entry.dictionary is None else (entry.dictionary.atoms, entry.dictionary.bias)
    )
    cost = dataclasses.replace(
        cost,
        parameters=sum(part.numel() for part in parts),
        disk_bytes=sum(file.stat().st_size for file in _files(place)) if place.exists() else None,
    )
    points = tuple((seen, fvu) for seen, fvu in curve)
    return Candidate(entry, kind, cost, points, _described(entry) | chosen, _decay_from(entry))


def kind_of(settings: EntrySettings) -> Kind:
    """Return the kind of an entry that its settings tell; of one that is loaded an SAE, until it is loaded."""
    if settings.train is not None and settings.train.decoder == "frozen":
        return "frozen"
    return KINDS.get(settings.way, "sae")


def _kind_of_loaded(entry: Entry) -> Kind:
    """Return what an entry is by its metadata, which name the controls."""
    training, fit = training_of(entry), {} if entry.dictionary is None else entry.dictionary.metadata.get("fit") or {}
    frozen = "frozen" if training.get("settings", {}).get("decoder") == "frozen" else None
    control = fit.get("control") or training.get("control") or frozen
    if control in CONTROLS:
        return control
    return "itda" if is_of_dictionary(entry.sae) else "sae"


def _decay_from(entry: Entry) -> float | None:
    decay = training_of(entry).get("settings", {}).get("decay")
    return 1.0 - decay if isinstance(decay, int | float) else None


def _make(
    settings: EntrySettings, data: ActivationsDataModule, hook_name: str, place: Path
) -> tuple[Cost, Sequence[Sequence[Any]]]:
    """Fit, train, draw or compute an entry, save it and return its cost and curve."""
    if settings.train is not None:
        trained = train_sae(settings.train, data, hook_name, place)
        seen, read = trained.activations_seen, trained.activations_read
        return Cost(trained.seconds, None, seen, read, trained.peak_bytes), trained.curve
    fit, atoms = settings.fit, settings.random or settings.kmeans
    if fit is not None:
        data = data.with_settings(first_tokens=data.hparams["first_tokens"] if fit.tokens is None else fit.tokens)
        data.prepare_data()  # tokenising counts neither in the time of a fit nor in that of a training
    start = time.perf_counter()
    with PeakMemory() as peak:
        if fit is not None:
            module = fit.module()
            fit_in_memory(module, data)
            if fit.refine is not None:
                refine(module, data, fit.refine)
            module.calibrate_l0()
            if fit.refine is not None:
                relabel(module, data)
            dictionary = module.finished_dictionary()
            read = dictionary.metadata["activations_seen"]
            dictionary.save(place)
        elif atoms is not None:
            chosen = dataclasses.asdict(atoms)
            bias = None if chosen.pop("center") else torch.zeros(data.widths[hook_name])
            make = random_dictionary if settings.kmeans is None else kmeans_dictionary
            dictionary = make(data, hook_name, bias=bias, **chosen)
            read = dictionary.metadata["activations_seen"]
            dictionary.save(place)
        else:
            assert settings.pca is not None
            sae: SAE[Any] = pca_sae(data, hook_name, settings.pca.k, settings.pca.tokens)
            read = sae.cfg.metadata["training"]["activations_seen"]
            sae.save_model(place)
    return Cost(time.perf_counter() - start, None, read, read, peak.bytes), ()


def encoding_of(dictionary: Dictionary | None) -> Encoding | None:
    """Return the settings with which a dictionary encodes; None for no dictionary."""
    if dictionary is None:
        return None
    centred = bool(dictionary.bias.any())
    return Encoding(dictionary.k, dictionary.pursuit, dictionary.nonnegative, centred, dictionary.least_gain)


def _described(entry: Entry) -> dict[str, str]:
    encoding = encoding_of(entry.dictionary)
    if encoding is not None:
        return {name: str(value) for name, value in dataclasses.asdict(encoding).items()}
    k = getattr(entry.sae.cfg, "k", None) or getattr(entry.sae.cfg, "max_iterations", None)
    return {} if k is None else {"k": str(k)}


def _contents(reference: str) -> str:
    """Identify a loaded entry by the hash of the files of a path or repository, or by the name of a release."""
    path = downloaded(reference)
    if not path.exists():
        return reference
    digest = hashlib.sha256()
    for file in sorted({*_files(path), *cost_files(path)}):
        # The path within the entry, so that the entry may be moved.
        digest.update(str(file.relative_to(path) if file.is_relative_to(path) else file.name).encode())
        with file.open("rb") as stream:
            hashlib.file_digest(stream, lambda: digest)
    return digest.hexdigest()


def _files(path: Path) -> list[Path]:
    """Return the files of an entry: of a run directory only its dictionaries."""
    if path.is_file():
        return [path]
    dictionaries = path / DICTIONARIES
    root = dictionaries if dictionaries.is_dir() else path
    return [file for file in root.rglob("*") if file.is_file() and not any(map(is_part, [file, *file.parents]))]
