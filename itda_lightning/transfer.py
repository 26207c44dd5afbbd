"""Command: the dictionary of one model rebuilt in another (``python -m itda_lightning.transfer --help``)."""

import logging
import sys
from pathlib import Path

from rich.console import Console

from itda_lightning.across_models.at_sources import check_sources
from itda_lightning.across_models.transferred import cropped, rivals, transfer
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import Loader
from itda_lightning.comparison.bench import Bench
from itda_lightning.comparison.candidates import identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import ComparisonSettings, EntrySettings
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.facts import settings
from itda_lightning.evaluation.data_of import data_for, hook_point
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.fitting.run_directory import DICTIONARIES, make_run_directory
from itda_lightning.machine.atomic_files import write_json, write_text
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.versions import versions_and_hardware
from itda_lightning.report.comparison_table import print_comparison
from itda_lightning.report.pages.comparison_page import write_dashboard
from itda_lightning.results.as_json import to_json
from itda_lightning.results.comparison import Comparison, Row

logger = logging.getLogger("itda_lightning.transfer")

MADE, RESULTS, PAGE = "made", "transfer.json", "transfer.html"
TABLE = 110  # characters of a line with all of L0, FVU, CE increase and KL


def transfer_command(
    dictionary: str,
    model: str,
    output: str,
    hook_name: str | None = None,
    target_hook_name: str | None = None,
    loader: Loader = "bridge",
    model_revision: str | None = None,
    model_dtype: str = "float32",
    device: str = "auto",
    data_config: str | None = None,
    cache_dir: str | None = None,
    loss_tokens: int = 4096,
) -> None:
    """Rebuild a dictionary in another model: its sources' prompts run through that model, its activations as atoms.

    The rebuilt dictionary is measured on held-out tokens of the other model against an ITDA fitted there, of the same
    size, on the same documents, and against as many random activations. OUTPUT becomes a run directory with the rebuilt
    dictionary in dictionaries/, the figures in transfer.json and a page.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary, with sources.
        model: the other model: a hub name, a local directory, or bundled:smollm2-135m.
        output: the directory to make.
        hook_name: which dictionary, where there are several.
        target_hook_name: the hook point of the other model; by default the one of the dictionary.
        loader: how the other model is loaded: bridge, hooked_transformer or huggingface.
        model_revision: branch, tag or commit of the other model on the hub.
        model_dtype: dtype of the other model's weights and computation: float32, bfloat16 or float16.
        device: where the other model runs: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the documents; by default those of the dictionary's own fit.
        cache_dir: where the other model's activations are kept; by default where those of the fit are, else in OUTPUT.
        loss_tokens: held-out tokens to measure CE and KL on.
    """
    loaded = load_dictionary(dictionary, hook_name)
    hook = hook_point(loaded, hook_name, dictionary)
    data = data_for(loaded, data_config, hook, device)
    check_sources(loaded.sources, data)
    kept = cache_dir or data.hparams["cache_dir"] or str(Path(output).expanduser() / "activations")
    changes = {
        "model": model,
        "loader": loader,
        "model_revision": model_revision,
        "model_dtype": model_dtype,
        "hook_names": [target_hook_name or hook],
        "cache_dir": kept,
    }
    target = ActivationsDataModule(**{**settings(data.hparams), **changes})
    wanted = EntrySettings("transferred", load=str(Path(output).expanduser() / DICTIONARIES / target.hook_names[0]))
    asked = ComparisonSettings([wanted], output, loss_tokens=loss_tokens)
    bench = Bench(target, asked)
    target.rows("train")
    _ = target.language_model
    directory = make_run_directory(output, output, "transfer")
    target.prepare_data()
    rebuilt = transfer(loaded, data, target)
    rebuilt.save(Path(str(wanted.load)))
    told = rebuilt.metadata["transfer"]
    facts = {
        "model": target.model_name.name,
        "hook point": bench.hook_name,
        "dictionary of": f"{told['model_name']} at {hook}",
        "atoms rebuilt": f"{rebuilt.n_atoms:,} of {loaded.n_atoms:,}",
        "sources without a token of their own": f"{told['unaligned']:,}",
        "sources without a usable activation": f"{told['unusable']:,}",
    }
    logger.info("; ".join(f"{name}: {value}" for name, value in facts.items()))
    comparison = Comparison(
        title=f"A dictionary of {facts['dictionary of']} in {facts['model']} at {facts['hook point']}",
        facts=facts,
        rows=_measured([wanted, *rivals(rebuilt, rebuilt.n_atoms)], rebuilt, bench, directory),
    )
    write_text(directory / RESULTS, to_json(comparison))
    write_json(directory / "versions.json", versions_and_hardware())
    write_dashboard(comparison, directory / PAGE)
    # On a narrow terminal lines are broken rather than figures left out.
    print_comparison(comparison, Console(width=max(TABLE, Console().width)))
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")


def _measured(entries: list[EntrySettings], rebuilt: Dictionary, bench: Bench, directory: Path) -> tuple[Row, ...]:
    """The rows of the entries, none with more atoms than the rebuilt dictionary has."""
    rows = []
    for entry in entries:
        logger.info("%s: making and measuring", entry.name)
        identity = identity_of(entry, bench.data)
        made = make_candidate(entry, bench.data, bench.hook_name, directory / MADE, identity)
        rows.append(bench.measure(entry.name, cropped(made, rebuilt.n_atoms), bench.identity(identity)))
    return tuple(rows)


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(transfer_command, "transfer", args)


if __name__ == "__main__":
    run_command(main)
