"""A whole comparison: every entry and its controls made and measured in turn, each row kept as soon as it is there."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.added_controls import controls_of, unused_name
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import identity_of, kind_of, make_candidate
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings
from itda_lightning.comparison.entry_checks import check_entries
from itda_lightning.comparison.latents import latent_view
from itda_lightning.errors import InputError
from itda_lightning.evaluation.facts_strip import data_facts, machine_facts
from itda_lightning.machine.atomic_files import explained
from itda_lightning.machine.bundled_names import in_words
from itda_lightning.machine.output_files import make_writable_directory
from itda_lightning.machine.part_files import remove_parts
from itda_lightning.machine.paths import text_without_home, user_path
from itda_lightning.results.as_json import read_results, write_results
from itda_lightning.results.comparison import CONTROLS, Comparison, LatentView, Row
from itda_lightning.results.paired import RESAMPLES

logger = logging.getLogger(__name__)

MADE, ROWS = "made", "rows"


def compare(
    settings: ComparisonSettings, data: ActivationsDataModule, publish: Callable[[Comparison], object]
) -> Comparison:
    """Check all entries, then make and measure one after another and write the results.

    ``publish`` is called with the results when all rows are measured, and again when the latents are there, too.

    Raises:
        InputError: entries that cannot be compared, each with what differs; nothing is made or measured then.
    """
    bench = Bench(data, settings)
    check_entries(settings, data, bench.hook_name)
    directory = user_path(settings.directory)
    with explained(directory, "writing into"):
        make_writable_directory(directory)
    for place in (directory, directory / MADE, directory / ROWS):
        remove_parts(place)
    data.prepare_data()
    rows = _rows(settings, bench, directory)
    comparison = Comparison(
        title=settings.title or f"{in_words(data.model_name.name)}, at {bench.hook_name}",
        facts=facts_of(bench),
        rows=rows,
    )
    # The figures are written before the latents, which may fail.
    _write(comparison, directory, publish)
    if settings.latents:
        comparison = replace(comparison, latents=_latents(settings, rows, bench, directory))
        _write(comparison, directory, publish)
    return comparison


def _write(comparison: Comparison, directory: Path, publish: Callable[[Comparison], object]) -> None:
    write_results(directory / "comparison.json", comparison)
    publish(comparison)


def _rows(settings: ComparisonSettings, bench: Bench, directory: Path) -> tuple[Row, ...]:
    """Measure the entries, then the controls of every ITDA among them, each control once."""
    rows = []
    waiting = list(settings.entries)
    names = {entry.name for entry in waiting}
    chosen = {(entry.way, entry.chosen) for entry in waiting if entry.way != "load"}
    while waiting:
        entry = waiting.pop(0)
        row = _row(entry, bench, directory)
        rows.append(row)
        for control in controls_of(entry, row, settings.chosen_controls):
            if (control.way, control.chosen) not in chosen:
                chosen.add((control.way, control.chosen))
                # Controls of one kind and number can differ in their tokens; an entry can have a control's name.
                name = unused_name(control.name, entry.name, names)
                names.add(name)
                waiting.append(replace(control, name=name))
    return tuple(rows)


def _row(entry: EntrySettings, bench: Bench, directory: Path) -> Row:
    """Return the row of an entry: taken over, measured, or with the reason of its failure."""
    try:
        candidate_identity = identity_of(entry, bench.data)
        identity = bench.identity(candidate_identity)
        previous = _read_row(directory, identity)
        if previous is not None:
            return replace(previous, name=entry.name, reused=True)
        logger.info("%s: %s", entry.name, "loading" if entry.way == "load" else "making, unless it was made before")
        candidate = make_candidate(entry, bench.data, bench.hook_name, directory / MADE, candidate_identity)
        row = bench.measure(entry.name, candidate, identity)
        slug = re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:60] or "entry"
        write_results(directory / ROWS / f"{slug}-{row.identity}.json", row)
        return row
    except Exception as error:  # one entry must not cost the results of the others
        known = isinstance(error, InputError)
        logger.error("%s failed: %s", entry.name, error, exc_info=not known)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        return Row(entry.name, kind_of(entry), failure=text_without_home(reason))


def _read_row(directory: Path, identity: str) -> Row | None:
    """Return the row of that identity, under whatever name its entry had, or None."""
    for path in (directory / ROWS).glob(f"*-{identity}.json"):
        try:
            row = read_results(path, Row)
        except InputError as error:
            logger.warning("%s cannot be taken over (%s): its entry is measured again", path, error)
            continue
        logger.info("%s: taken over from %s", row.name, path)
        return row
    return None


def _latents(settings: ComparisonSettings, rows: tuple[Row, ...], bench: Bench, directory: Path) -> LatentView | None:
    """Show atoms of the first ITDA beside latents of other entries; None without an ITDA."""
    measured = {row.name: row for row in rows if row.failure is None}
    shown = [entry for entry in settings.entries if entry.name in measured]
    shown = [entry for entry in shown if measured[entry.name].kind not in CONTROLS]
    first = next((entry for entry in shown if measured[entry.name].kind == "itda"), None)
    if first is None:
        return None
    # SAEs first: they are what an ITDA is compared with.
    others = sorted((entry for entry in shown if entry != first), key=lambda entry: measured[entry.name].kind == "itda")
    data, hook_name, made = bench.data, bench.hook_name, directory / MADE
    itda, *beside = (
        make_candidate(entry, data, hook_name, made, identity_of(entry, data)).entry._replace(name=entry.name)
        for entry in [first, *others[: settings.latents_of]]
    )
    return latent_view(itda, beside, data, hook_name, data.language_model, max_atoms=settings.atoms_shown)


def facts_of(bench: Bench) -> dict[str, str]:
    """Describe what entries are measured on, and by what: name -> text."""
    return {
        **data_facts(bench.data, bench.hook_name),
        "held-out tokens' hash": bench.tokens_hash,
        "loss tokens": f"{bench.loss_rows.tokens.numel():,}",
        "errors": f"standard errors, documents resampled {RESAMPLES:,} times",
        **machine_facts(),
    }
