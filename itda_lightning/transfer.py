"""Command: rebuild the dictionary of one model in another (``python -m itda_lightning.transfer --help``)."""

import sys

from itda_lightning.machine.choices import Loader
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.paths import user_path

RESULTS, PAGE = "transfer.json", "transfer.html"
TABLE = 110  # characters per line of a table with L0, FVU, CE increase and KL


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
    """Rebuild a dictionary in another model: run the prompts of its sources and take that model's activations as atoms.

    The rebuilt dictionary is measured on held-out tokens of the other model against an ITDA of the same size fitted
    there on the same documents, and against as many random activations. OUTPUT becomes a run directory with the rebuilt
    dictionary in dictionaries/, the figures in transfer.json and a page.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary, with sources.
        model: the other model: a hub name, a local directory, or bundled:smollm2-135m (SmolLM2-135M-Instruct,
            dequantised from 4 bits).
        output: the directory to make; one that a killed run of the same command left is taken up again.
        hook_name: hook point of the dictionary, if there are several.
        target_hook_name: hook point of the other model; by default that of the dictionary.
        loader: loader of the other model: bridge, hooked_transformer or huggingface.
        model_revision: branch, tag or commit of the other model on the hub.
        model_dtype: dtype of the other model's weights and computation: float32, bfloat16 or float16.
        device: device of the other model: auto, cpu, cuda or cuda:N.
        data_config: a fit config whose data section names the documents; by default the data of the dictionary's own
            fit.
        cache_dir: directory for the other model's activations; by default this package's own cache if the fit had
            one, else a folder of OUTPUT.
        loss_tokens: held-out tokens for CE loss and KL divergence.
    """
    # After parsing, as in every command: what does the work takes seconds to import.
    from rich.console import Console

    from itda_lightning.across_models.source_activations import check_sources
    from itda_lightning.across_models.transfer_study import transfer_and_measure
    from itda_lightning.dictionary.facts import settings
    from itda_lightning.evaluation.data_of import load_with_data, own_cache
    from itda_lightning.fitting.run_directory import result_directory
    from itda_lightning.report.pages.comparison_page import write_dashboard
    from itda_lightning.report.terminal import print_comparison
    from itda_lightning.results.as_json import write_results

    original, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    check_sources(original.sources, data)
    directory = user_path(output, "--output")
    target = data.with_settings(
        model=model,
        loader=loader,
        model_revision=model_revision,
        model_dtype=model_dtype,
        hook_names=[target_hook_name or hook],
        cache_dir=cache_dir or str(own_cache() if data.hparams["cache_dir"] else directory / "activations"),
    )
    given = {"transfer": dictionary, "to": settings(target.hparams), "loss_tokens": loss_tokens}
    with result_directory(output, given):
        comparison = transfer_and_measure(original, hook, data, target, directory, loss_tokens)
        write_results(directory / RESULTS, comparison)
        write_dashboard(comparison, directory / PAGE)
    # On a narrow terminal, break lines instead of leaving figures out.
    print_comparison(comparison, Console(width=max(TABLE, Console().width)))
    sys.stdout.write(f"page: {(directory / PAGE).resolve()}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(transfer_command, "transfer", args)


if __name__ == "__main__":
    run_command(main)
