"""Command: ITDAs beside SAEs on the same held-out tokens (``python -m itda_lightning.compare --help``)."""

import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

from jsonargparse import ArgumentParser

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import KINDS, identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import (
    ComparisonSettings,
    EntrySettings,
    PCASettings,
    RandomSettings,
)
from itda_lightning.comparison.latents import latent_view
from itda_lightning.comparison.probing_data import load_datasets
from itda_lightning.comparison.same_site import differences
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.machine.atomic_files import explained, write_text
from itda_lightning.machine.command_line import run_command, start_logging
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.pursuit import PursuitName
from itda_lightning.report.comparison_table import print_comparison
from itda_lightning.report.pages.comparison_page import write_dashboard
from itda_lightning.report.wandb_tables import log_comparison
from itda_lightning.results.as_json import from_json, to_json
from itda_lightning.results.comparison import Comparison, LatentView, Row
from itda_lightning.saelens.anatomy import is_of_dictionary

logger = logging.getLogger("itda_lightning.compare")

ROWS, MADE, COMPARISON, PAGE = "rows", "made", "comparison.json", "comparison.html"
SOME_FAILED = 1


def compare(settings: ComparisonSettings, data: ActivationsDataModule) -> Comparison:
    """Check all entries, make and measure them one after another, write every row as it is finished, then the page.

    Raises:
        InputError: entries that cannot be compared, each with what differs; nothing was made or measured then.
    """
    bench = Bench(data, settings)
    check_entries(settings, data, bench.hook_name)
    directory = Path(settings.directory).expanduser()
    with explained(directory, "writing into"):
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    data.prepare_data()
    rows: list[Row] = []
    waiting = list(settings.entries)
    names = {entry.name for entry in waiting}
    asked = {(entry.way, entry.chosen) for entry in waiting if entry.way in ("random", "pca")}
    while waiting:
        wanted = waiting.pop(0)
        row = _row(wanted, bench, directory)
        rows.append(row)
        for control in controls_of(wanted, row) if settings.controls else ():
            if (control.way, control.chosen) not in asked:
                asked.add((control.way, control.chosen))
                # Of the same kind but of other tokens, or with the name of another entry.
                while control.name in names:
                    control = replace(control, name=f"{control.name}, again")
                names.add(control.name)
                waiting.append(control)
    comparison = Comparison(
        title=settings.title or f"{data.model_name.name} at {bench.hook_name}",
        facts=_facts(data, bench),
        rows=tuple(rows),
    )
    # Before the latents, too: should they fail, the figures are there.
    _write(comparison, directory)
    if settings.latents:
        comparison = replace(comparison, latents=_latents(settings, rows, bench, directory))
        _write(comparison, directory)
    return comparison


def _write(comparison: Comparison, directory: Path) -> None:
    write_text(directory / COMPARISON, to_json(comparison))
    write_dashboard(comparison, directory / PAGE)


def check_entries(settings: ComparisonSettings, data: ActivationsDataModule, hook_name: str) -> None:
    """Refuse, all at once, what cannot be measured on these activations.

    Raises:
        InputError: every entry that is not to be had or is of other activations, with the reason.
    """
    if settings.probes is not None:
        load_datasets(settings.probes)
    width, problems = data.widths[hook_name], []
    rows, made = data.rows("train"), [entry.name for entry in settings.entries if entry.way != "load"]
    for wanted in settings.entries:
        tokens, available = getattr(wanted.chosen, "tokens", None), rows.tokens.numel()
        if tokens is not None and not rows.context_size <= tokens <= available:
            problems.append(
                f"{wanted.name}: tokens must lie between one row of {rows.context_size} and the {available:,} training "
                f"tokens of the data, got {tokens:,}"
            )
        if wanted.fit is not None and wanted.fit.refine is not None:
            try:
                wanted.fit.refine.check(data)
            except InputError as error:
                problems.append(f"{wanted.name}: {error}")
        if wanted.way != "load":
            continue
        try:
            entry = _load(wanted.chosen, hook_name)
        except InputError as error:
            problems.append(f"{wanted.name}: {error}")
            continue
        problems += [f"{wanted.name}: {what}" for what in differences(entry, data, hook_name, width, wanted.same_model)]
        if settings.controls and is_of_dictionary(entry.sae):
            made.append(f"the controls of {wanted.name}")
    if data.hparams["cache_dir"] is None and made:
        problems.append(f"what is made reads activations more than once ({', '.join(made)}): set data.cache_dir")
    if problems:
        raise InputError("; ".join(problems))


def controls_of(wanted: EntrySettings, row: Row) -> Iterator[EntrySettings]:
    """The controls of an ITDA: as many random activations as atoms, and as many principal components as a code has."""
    if row.kind != "itda" or row.failure is not None:
        return
    k, tokens = int(row.settings["k"]), getattr(wanted.chosen, "tokens", None)
    drawn = RandomSettings(
        row.width,
        k,
        cast(PursuitName, row.settings["pursuit"]),
        row.settings["nonnegative"] == "True",
        row.settings["centred"] == "True",
        tokens,
    )
    yield EntrySettings(f"random, for {wanted.name}", random=drawn)
    yield EntrySettings(f"PCA, {k} components", pca=PCASettings(k, tokens))


def _load(reference: str, hook_name: str) -> Entry:
    """The entry with the hook point that it has, be it another; that of the comparison only where it has to be told."""
    try:
        return load_entry(reference)
    except InputError:  # of several hook points, or it says none; whatever else is wrong is wrong again
        return load_entry(reference, hook_name)


def _row(wanted: EntrySettings, bench: Bench, directory: Path) -> Row:
    """The row of an entry: taken over, measured, or with the reason of its failure."""
    try:
        made = identity_of(wanted, bench.data)
        identity = bench.identity(made)
        measured = _measured_before(directory, identity)
        if measured is not None:
            return replace(measured, name=wanted.name, reused=True)
        logger.info("%s: %s", wanted.name, {"load": "loading"}.get(wanted.way, "making, unless it was made before"))
        candidate = make_candidate(wanted, bench.data, bench.hook_name, directory / MADE, made)
        row = bench.measure(wanted.name, candidate, identity)
        write_text(directory / ROWS / f"{_slug(wanted.name)}-{identity}.json", to_json(row))
        return row
    except Exception as error:  # one entry must not cost the results of the others
        known = isinstance(error, InputError)
        logger.error("%s failed: %s", wanted.name, error, exc_info=not known)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        return Row(wanted.name, KINDS.get(wanted.way, "sae"), failure=reason)


def _measured_before(directory: Path, identity: str) -> Row | None:
    """The row of that identity in the directory, whatever its entry was called then."""
    for path in (directory / ROWS).glob(f"*-{identity}.json"):
        try:
            row = from_json(path.read_text(encoding="utf-8"), Row)
        except (InputError, UnicodeDecodeError) as error:
            logger.warning("%s cannot be taken over (%s): its entry is measured again", path, error)
            continue
        logger.info("%s: taken over from %s", row.name, path)
        return row
    return None


def _latents(settings: ComparisonSettings, rows: list[Row], bench: Bench, directory: Path) -> LatentView | None:
    """Atoms of the first ITDA beside other entries; None without one."""
    measured = {row.name: row for row in rows if row.failure is None}
    chosen = [entry for entry in settings.entries if entry.name in measured and entry.way not in ("random", "pca")]
    itdas = [entry for entry in chosen if measured[entry.name].kind == "itda"]
    if not itdas:
        return None
    # SAEs first: they are what an ITDA is compared with.
    others = [entry for entry in chosen if entry.name != itdas[0].name]
    others.sort(key=lambda entry: measured[entry.name].kind == "itda")
    entries = [
        make_candidate(
            entry, bench.data, bench.hook_name, directory / MADE, identity_of(entry, bench.data)
        ).entry._replace(name=entry.name)
        for entry in [itdas[0], *others[: settings.latents_of]]
    ]
    return latent_view(entries, bench.data, bench.hook_name, bench.data.language_model, max_atoms=settings.atoms_shown)


def _facts(data: ActivationsDataModule, bench: Bench) -> dict[str, str]:
    rows, versions = data.rows("heldout"), versions_and_hardware()
    documents = len(rows.document[rows.kept].unique())
    packages = ("itda-lightning", "sae-lens", "torch", "transformers", "python")
    return {
        "model": data.model_name.name,
        "revision": data.model_name.revision or data.model_name.fingerprint().rpartition("@")[2][:12],
        "hook point": bench.hook_name,
        "dataset": f"{data.hparams['dataset']} ({data.documents.fingerprint[:12]})",
        "training tokens": f"{data.hparams['training_tokens']:,}",
        "held-out activations": f"{rows.n_kept:,} of {documents:,} documents",
        "held-out tokens' hash": bench.tokens_hash,
        "loss tokens": f"{bench.loss_rows.tokens.numel():,}",
        "context": f"{rows.context_size} tokens, prepend_bos {data.hparams['prepend_bos']}",
        "seed of the data": str(data.hparams["seed"]),
        "errors": "standard errors, documents resampled 1,000 times",
        "versions": ", ".join(f"{name} {versions[name]}" for name in packages),
        "hardware": f"{versions['cpus']} CPU cores, {versions['memory_gb']:.0f} GB"
        + "".join(f", {gpu}" for gpu in versions["gpus"]),
    }


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "entry"


def parse(args: list[str] | None = None) -> tuple[ComparisonSettings, ActivationsDataModule]:
    """What the command line and the config ask for; nothing is loaded yet.

    Raises:
        InputError: a value out of range. What does not parse ends the process with exit code 2.
    """
    parser = ArgumentParser(
        prog="python -m itda_lightning.compare",
        description="Compare ITDAs with SAEs, and with controls, on the same held-out tokens.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="A file with what follows, e.g. configs/compare/NAME.yaml.")
    parser.add_class_arguments(ActivationsDataModule, "data")
    parser.add_class_arguments(ComparisonSettings)
    parsed = parser.parse_args(args)
    try:
        config = parser.instantiate_classes(parsed)
    except ValueError as error:  # what an entry's settings refuse, in the parser's wrapping
        raise error.__cause__ if isinstance(error.__cause__, InputError) else InputError(str(error)) from error
    return ComparisonSettings(**{name: config[name] for name in ComparisonSettings.__dataclass_fields__}), config.data


def main(args: list[str] | None = None) -> int:
    """Parse, compare, print; returns the exit code."""
    start_logging()
    settings, data = parse(args)
    comparison = compare(settings, data)
    directory = Path(settings.directory).expanduser()
    print_comparison(comparison)
    if settings.wandb_project is not None:
        log_comparison(comparison, settings.wandb_project, directory)
    reused = [row.name for row in comparison.rows if row.reused]
    failed = [row.name for row in comparison.rows if row.failure is not None]
    if reused:
        sys.stdout.write(f"taken over from an earlier run: {', '.join(reused)}\n")
    if failed:
        sys.stderr.write(f"{len(failed)} of {len(comparison.rows)} entries failed: {', '.join(failed)}\n")
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")
    return SOME_FAILED if failed else 0


if __name__ == "__main__":
    run_command(main)
