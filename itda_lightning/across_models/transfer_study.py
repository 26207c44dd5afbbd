"""A transferred dictionary measured in its new model, against a native fit and random activations of the same size."""

import logging
from pathlib import Path
from typing import Any

from itda_lightning.across_models.transferred import is_centred, transfer
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import Candidate, identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings, FitSettings, RandomSettings
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Sources
from itda_lightning.evaluation.entries import Entry
from itda_lightning.fitting.run_directory import DICTIONARIES, make_run_directory
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.saelens import to_sae

logger = logging.getLogger(__name__)

MADE = "made"
# A native fit aims at this many times the atoms, since calibration may fall short, and is cropped.
ROOM = 1.25


def transfer_and_measure(
    dictionary: Dictionary,
    hook_name: str,
    data: ActivationsDataModule,
    target: ActivationsDataModule,
    output: str,
    loss_tokens: int,
) -> Comparison:
    """Transfer a dictionary into a new run directory and measure it on held-out tokens of its new model.

    Args:
        dictionary: a dictionary with sources.
        hook_name: its hook point.
        data: data of its fit.
        target: data of the other model, with the same documents and a single hook point.
        output: the run directory to make.
        loss_tokens: held-out tokens for CE loss and KL divergence.

    Raises:
        InputError: as ``transfer`` and ``Bench``; an output that exists. Nothing is written if the model does not load.
    """
    (hook,) = target.hook_names
    transferred = EntrySettings("transferred", load=str(Path(output).expanduser() / DICTIONARIES / hook))
    bench = Bench(target, ComparisonSettings([transferred], output, loss_tokens=loss_tokens))
    target.rows("train")
    _ = target.language_model
    directory = make_run_directory(output, output, "transfer")
    write_json(directory / "versions.json", versions_and_hardware())
    target.prepare_data()
    rebuilt = transfer(dictionary, data, target)
    rebuilt.save(directory / DICTIONARIES / hook)
    origin = rebuilt.metadata["transfer"]
    facts = {
        "model": target.model_name.name,
        "hook point": hook,
        "dictionary of": f"{origin['model_name']} at {hook_name}",
        "atoms rebuilt": f"{rebuilt.n_atoms:,} of {dictionary.n_atoms:,}",
        "sources without a token of their own": f"{origin['unaligned']:,}",
        "sources without a usable activation": f"{origin['unusable']:,}",
    }
    logger.info("; ".join(f"{name}: {value}" for name, value in facts.items()))
    entries = (transferred, *rivals(rebuilt, rebuilt.n_atoms))
    return Comparison(
        title=f"A dictionary of {facts['dictionary of']} in {facts['model']} at {hook}",
        facts=facts,
        rows=tuple(_measure(entry, rebuilt.n_atoms, bench, directory / MADE) for entry in entries),
    )


def rivals(dictionary: Dictionary, n_atoms: int) -> tuple[EntrySettings, EntrySettings]:
    """Return settings of the rivals of a transferred dictionary: a native fit and random activations, encoding alike.

    The native fit has some more atoms: see ``cropped``.
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
    """Return the candidate with at most the first ``n_atoms`` of its atoms (Section 4 of arXiv 2505.17769)."""
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


def _measure(entry: EntrySettings, n_atoms: int, bench: Bench, made: Path) -> Row:
    """Make an entry, crop it to ``n_atoms`` and measure it."""
    logger.info("%s: making and measuring", entry.name)
    identity = identity_of(entry, bench.data)
    candidate = make_candidate(entry, bench.data, bench.hook_name, made, identity)
    return bench.measure(entry.name, cropped(candidate, n_atoms), bench.identity(identity))
