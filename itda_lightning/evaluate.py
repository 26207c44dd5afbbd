"""Command: evaluate an ITDA or an SAE on held-out documents (``python -m itda_lightning.evaluate --help``)."""

import sys

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.output_files import check_output
from itda_lightning.machine.paths import user_path

# Losses cost far more than what else is measured: a minute for the bundled model on one core.
DEFAULT_LOSS_TOKENS = 4096


def evaluate(
    dictionary: str,
    hook_name: str | None = None,
    data_config: str | None = None,
    output: str | None = None,
    tokens: int | None = None,
    model_batch_size: int = 4,
    device: str = "auto",
) -> None:
    """Run SAELens's evals on held-out documents, print a table and write JSON.

    Position 0 and special tokens are masked. Scores compare with a zero-ablated hook point, which flatters every
    dictionary, so the raw CE losses stand beside them. Variance and sparsity are measured on all held-out tokens.

    Args:
        dictionary: a run directory, a checkpoint, a saved or exported dictionary, a SAELens SAE on disk,
            hf://owner/name, or release:sae_id of a pretrained SAE.
        hook_name: the hook point of the dictionary; of several in a run, all unless one is named.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
        output: the JSON file to write; by default RUN/evaluation-<hook name>.json, or evaluation.json in this
            directory.
        tokens: number of tokens to measure CE losses and KL on, which takes three passes through the whole model; by
            default the fit's validation_tokens but at most 4,096. More held-out rows are read if there are fewer.
        model_batch_size: largest number of rows per forward pass. Logits of a large vocabulary take much memory.
        device: device of the model and the dictionary: auto, cpu, cuda or cuda:N.
    """
    check_at_least(1, {"--tokens": tokens, "--model_batch_size": model_batch_size})
    if output is not None:
        user_path(output, "--output")

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation.data_of import data_for
    from itda_lightning.evaluation.entries import load_entries
    from itda_lightning.evaluation.saelens_evals import EVALUATION, evaluate_entries, evaluation_content
    from itda_lightning.fitting.run_directory import output_path
    from itda_lightning.report.terminal import print_metrics

    entries = load_entries(dictionary, hook_name)
    hooks = [entry.hook_name for entry in entries]
    if output is not None and len(entries) > 1:
        raise InputError(f"--output names one file, but {dictionary} has {len(hooks)} hook points: give --hook_name")
    paths = {hook: output_path(dictionary, hook, EVALUATION, output) for hook in hooks}
    for path in paths.values():
        check_output(path)
    data = data_for(entries[0].dictionary, data_config, hooks[0], device, tokens or 0)
    size = data.hparams["context_size"]
    n_tokens = min(DEFAULT_LOSS_TOKENS, data.hparams["validation_tokens"]) if tokens is None else tokens
    check_at_least(size, {"--tokens": n_tokens}, "that is one row")
    for entry, metrics, seconds in evaluate_entries(entries, data, n_tokens, model_batch_size):
        path = paths[entry.hook_name]
        write_json(path, evaluation_content(entry, data, metrics, seconds), ())
        sys.stdout.write(f"\n{entry.hook_name}\n" if len(entries) > 1 else "")
        print_metrics(metrics)
        sys.stdout.write(f"wrote {path.resolve()}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(evaluate, "evaluate", args)


if __name__ == "__main__":
    run_command(main)
