"""Command: one self-contained HTML page about a dictionary (``python -m itda_lightning.page --help``)."""

import sys

from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.output_files import check_output
from itda_lightning.machine.paths import user_path

PAGE = "page.html"


def page(
    dictionary: str,
    hook_name: str | None = None,
    output: str | None = None,
    device: str = "auto",
    data_config: str | None = None,
) -> None:
    """Measure a dictionary on held-out documents, write a page about it, print its figures and one decomposition.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        hook_name: the hook point of the dictionary; needed if there are several.
        output: the HTML file to write; by default RUN/page-<hook name>.html, or page.html in this directory.
        device: device of the language model: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the model and the documents; by default those of the
            dictionary's own fit.
    """
    if output is not None:
        user_path(output, "--output")

    # After parsing, as in every command: what does the work takes seconds to import.
    from itda_lightning.evaluation.data_of import add_prompts, load_with_data
    from itda_lightning.evaluation.page_results import measure_for_page
    from itda_lightning.evaluation.saelens_evals import EVALUATION, read_metrics
    from itda_lightning.fitting.run_directory import is_run, output_path
    from itda_lightning.report.pages.dictionary_page import write_page
    from itda_lightning.report.terminal import print_decomposition, print_metrics

    loaded, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    path = output_path(dictionary, hook, PAGE, output)
    check_output(path)
    evaluation = read_metrics(output_path(dictionary, hook, EVALUATION)) if is_run(dictionary) else {}
    add_prompts(loaded, data)
    results = measure_for_page(loaded, data, hook, evaluation)
    cosines = None if loaded.label_cosines is None else loaded.label_cosines.tolist()
    write_page(results, path, cosines)
    print_metrics(results.metrics)
    print_decomposition(results.decompositions[len(results.decompositions) // 2], max_terms=12, cosines=cosines)
    sys.stdout.write(f"page: {path.resolve()}\n")


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(page, "page", args)


if __name__ == "__main__":
    run_command(main)
