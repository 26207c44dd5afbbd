"""Candidates of a comparison: loaded, or fitted, trained or drawn once and kept on disk with their cost."""

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
from itda_lightning.fitting.refinement import refine
from itda_lightning.fitting.run_directory import DICTIONARIES, is_run
from itda_lightning.fitting.trainer import fit_in_memory
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.made_once import hash_of, made_once
from itda_lightning.machine.memory import PeakMemory
from itda_lightning.results.comparison import Cost, Encoding, Kind
from itda_lightning.saelens.anatomy import is_of_dictionary
from itda_lightning.saelens.controls import pca_sae, random_dictionary
from itda_lightning.saelens.training import train_sae

ARTIFACT, RECORD = "entry", "cost.json"
KINDS: dict[str, Kind] = {"fit": "itda", "train": "sae", "random": "random", "pca": "pca"}


class Candidate(NamedTuple):
    """An entry ready to be measured.

    Attributes:
        entry: the SAE, and the ITDA behind it if there is one.
        kind: ITDA, SAE or control.
        cost: what making it took, without the harvest.
        curve: (activations seen, FVU) while it was made.
        settings: name -> value for readers.
    """

    entry: Entry
    kind: Kind
    cost: Cost
    curve: tuple[tuple[int, float], ...]
    settings: dict[str, str]


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
            "settings": dataclasses.asdict(settings.chosen),
        }
    return hash_of([settings.way, content])


def make_candidate(
    settings: EntrySettings, data: ActivationsDataModule, hook_name: str, made: Path, identity: str
) -> Candidate:
    """Load an entry, or make it unless ``made/IDENTITY`` holds it already.

    Args:
        settings: the entry.
        data: the activations it is made of.
        hook_name: the hook point of the comparison.
        made: directory of the entries made so far.
        identity: the entry's ``identity_of``.

    Raises:
        InputError: as ``load_entry``, ``train_sae``, ``random_dictionary``, ``pca_sae`` and a fit.
    """
    if settings.way == "load":
        entry = load_entry(str(settings.load), hook_name)
        kind: Kind = "itda" if is_of_dictionary(entry.sae) else "sae"
        cost, curve = _known_of(entry, Path(str(settings.load)).expanduser())
        return Candidate(entry, kind, cost, curve, _described(entry))

    def make(directory: Path) -> None:
        cost, curve = _make(settings, data, hook_name, directory / ARTIFACT)
        write_json(directory / RECORD, {"cost": dataclasses.asdict(cost), "curve": curve})

    place = made_once(made / identity, make)
    entry = load_entry(str(place / ARTIFACT), hook_name)._replace(name=settings.name)
    facts = json.loads((place / RECORD).read_text(encoding="utf-8"))
    known = Cost(**facts["cost"])
    cost = dataclasses.replace(known, parameters=_parameters(entry), disk_bytes=_size(place / ARTIFACT))
    chosen = {name: str(value) for name, value in dataclasses.asdict(settings.chosen).items() if value is not None}
    return Candidate(entry, KINDS[settings.way], cost, _points(facts["curve"]), _described(entry) | chosen)


def _make(
    settings: EntrySettings, data: ActivationsDataModule, hook_name: str, place: Path
) -> tuple[Cost, tuple[tuple[int, float], ...]]:
    if settings.train is not None:
        trained = train_sae(settings.train, data, hook_name, place)
        seen, read = trained.activations_seen, trained.activations_read
        return Cost(trained.seconds, None, seen, read, trained.peak_bytes), trained.curve
    own = _data_of_fit(settings.fit, data) if settings.fit is not None else data
    start = time.perf_counter()
    with PeakMemory() as peak:
        if settings.fit is not None:
            dictionary = _fit(settings.fit, own)
            read = dictionary.metadata["activations_seen"]
            dictionary.save(place)
        elif settings.random is not None:
            dictionary = _random(settings.random, data, hook_name)
            read = dictionary.n_atoms
            dictionary.save(place)
        else:
            assert settings.pca is not None
            sae: SAE[Any] = pca_sae(data, hook_name, settings.pca.k, settings.pca.tokens)
            read = sae.cfg.metadata["training"]["activations_seen"]
            sae.save_model(place)
    return Cost(time.perf_counter() - start, None, read, read, peak.bytes), ()


def _data_of_fit(fit: FitSettings, data: ActivationsDataModule) -> ActivationsDataModule:
    first = data.hparams["first_tokens"] if fit.tokens is None else fit.tokens
    own = data.with_settings(first_tokens=first)
    own.prepare_data()  # tokenising counts neither in the time of a fit nor in that of a training
    return own


def _fit(fit: FitSettings, data: ActivationsDataModule) -> Dictionary:
    module = fit.module()
    fit_in_memory(module, data)
    if fit.refine is not None:
        refine(module, data, fit.refine)
    return module.finished_dictionary()


def _random(random: RandomSettings, data: ActivationsDataModule, hook_name: str) -> Dictionary:
    bias = None if random.center else torch.zeros(data.widths[hook_name])
    return random_dictionary(
        data,
        hook_name,
        random.n_atoms,
        random.k,
        random.pursuit,
        bias,
        random.seed,
        nonnegative=random.nonnegative,
        tokens=random.tokens,
    )


def _parameters(entry: Entry) -> int:
    """Count the numbers of an entry; atoms count once even if an export as [D; -D] stores them twice."""
    dictionary = entry.dictionary
    parameters = entry.sae.parameters() if dictionary is None else (dictionary.atoms, dictionary.bias)
    return sum(parameter.numel() for parameter in parameters)


def _known_of(entry: Entry, path: Path) -> tuple[Cost, tuple[tuple[int, float], ...]]:
    """Return the cost and the curve of a loaded entry, as far as it was fitted or trained by this package."""
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


def encoding_of(dictionary: Dictionary | None) -> Encoding | None:
    """Return the settings with which a dictionary encodes; None for no dictionary."""
    if dictionary is None:
        return None
    return Encoding(dictionary.k, dictionary.pursuit, dictionary.nonnegative, bool(dictionary.bias.any()))


def _described(entry: Entry) -> dict[str, str]:
    encoding = encoding_of(entry.dictionary)
    if encoding is not None:
        return {name: str(value) for name, value in dataclasses.asdict(encoding).items()}
    k = getattr(entry.sae.cfg, "k", None) or getattr(entry.sae.cfg, "max_iterations", None)
    return {} if k is None else {"k": str(k)}


def _contents(reference: str) -> str:
    """Identify a loaded entry by the hash of the files of a path, or by the name of a release."""
    path = Path(reference).expanduser()
    if not path.exists():
        return reference
    digest = hashlib.sha256()
    for file in sorted(_files(path)):
        # The path within the entry, so that the entry may be moved.
        digest.update(str(file.relative_to(path)).encode())
        with file.open("rb") as stream:
            while chunk := stream.read(2**24):
                digest.update(chunk)
    return digest.hexdigest()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path))


def _files(path: Path) -> list[Path]:
    """Return the files of an entry: of a run directory only its dictionaries."""
    if path.is_file():
        return [path]
    root = path / DICTIONARIES if is_run(path) else path
    return [file for file in root.rglob("*") if file.is_file()]
