"""Command: decompose a text's activations into atoms (``python -m itda_lightning.decompose --help``)."""

import sys
from collections.abc import Sequence

from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import write_json
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.machine.output_files import check_output
from itda_lightning.machine.paths import user_path


def decompose_text(
    dictionary: str,
    text: str = "",
    positions: list[int] | int | None = None,
    hook_name: str | None = None,
    max_terms: int | None = None,
    device: str = "auto",
    data_config: str | None = None,
    texts: str | None = None,
    output: str | None = None,
) -> None:
    """Print the activations of a text as tables of atoms: index, coefficient, the atom's prompt with its token marked.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        text: any text; the language model of the dictionary reads it. Its option can be left out.
        positions: tokens of the text to decompose, counted from 0 or, if negative, from the end, one as in -1 or
            several as in "[0,-1]"; by default the last one, and all of them with --output.
        hook_name: the hook point of the dictionary; needed if there are several.
        max_terms: largest number of atoms to print per token.
        device: device of the language model: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the model; by default that of the dictionary's own fit.
        texts: a file of texts instead of one: the lines of a .txt file, or jsonl with {"text": ...} per line.
        output: JSON file to write instead of printing: of each text its tokens, of each token its atoms with label,
            coefficient and share.
    """
    check_at_least(1, {"--max_terms": max_terms})

    # After parsing, as in every command: what does the work takes seconds to import.
    from rich.console import Console

    from itda_lightning.evaluation.data_of import load_with_data
    from itda_lightning.evaluation.decomposition import decompose_tokens, decomposed_text
    from itda_lightning.evaluation.prompts import prompts_of
    from itda_lightning.report.terminal import print_decomposition

    prompts, path = prompts_of(text, texts, ("--text", "--texts")), None
    if output is not None:
        check_output(path := user_path(output, "--output"))
    loaded, hook, data = load_with_data(dictionary, hook_name, data_config, device)
    chosen = [positions] if isinstance(positions, int) else positions or None
    if path is not None:
        shown = [decomposed_text(loaded, data, hook, prompt, chosen).as_dict() for prompt in prompts]
        write_json(path, {"hook_name": hook, "texts": shown})
        sys.stdout.write(f"decompositions: {path}\n")
        return
    console = Console(file=sys.stdout)
    cosines = None if loaded.label_cosines is None else loaded.label_cosines.tolist()
    for prompt in prompts:
        for decomposition in decompose_tokens(loaded, data, hook, prompt, chosen or [-1]):
            print_decomposition(decomposition, console, max_terms=max_terms, cosines=cosines)


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(decompose_text, "decompose", with_named_text(sys.argv[1:] if args is None else args))


def with_named_text(args: Sequence[str]) -> list[str]:
    """Return the arguments with a text that stands alone as that of ``--text``. Raises InputError for a second text.

    Example:
        >>> from itda_lightning.decompose import with_named_text
        >>> with_named_text(["--dictionary", "runs/mine", "the Congress of peace"])
        ['--dictionary', 'runs/mine', '--text=the Congress of peace']
    """
    named: list[str] = []
    rest = iter(args)
    for arg in rest:
        is_option = arg.startswith("-")
        named.append(arg if is_option else f"--text={arg}")
        if is_option and "=" not in arg and arg not in ("-h", "--help"):
            named += [value for value in (next(rest, None),) if value is not None]
    if sum(arg == "--text" or arg.startswith("--text=") for arg in named) > 1:
        texts = [arg for arg in named if arg.startswith("--text=")]
        raise InputError(f"there are two texts, {texts[-1][7:47]!r} among them: quote a text of several words")
    return named


if __name__ == "__main__":
    run_command(main)
