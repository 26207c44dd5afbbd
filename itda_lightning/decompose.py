"""Command: what a text's activations are made of (``python -m itda_lightning.decompose --help``)."""

import sys

from jsonargparse import auto_cli
from rich.console import Console

from itda_lightning.activations.harvest import harvest
from itda_lightning.activations.rows import pack
from itda_lightning.command_line import run_command
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data import data_for
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.loading import load_dictionary
from itda_lightning.report.tables import print_decomposition
from itda_lightning.sources import Source


def decompose_text(
    dictionary: str,
    text: str,
    positions: list[int] | None = None,
    hook_name: str | None = None,
    max_terms: int | None = None,
    device: str = "auto",
) -> None:
    """Print the activations of a text as tables of atoms: index, coefficient, the atom's prompt with its token marked.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        text: any text; the language model of the dictionary reads it.
        positions: tokens of the text to decompose, counted from 0 or, negative, from the end; by default the last one.
        hook_name: which dictionary, where there are several.
        max_terms: print at most so many atoms a token.
        device: where the language model runs: auto, cpu, cuda or cuda:N.
    """
    loaded = load_dictionary(dictionary, hook_name)
    hook = loaded.metadata.get("hook_name")
    if hook is None:
        raise InputError(f"{dictionary} does not say which hook point it is of: give a run directory or its export")
    data = data_for(loaded, None, hook, device)
    n_tokens = len(data.tokenizer(text, add_special_tokens=False, return_offsets_mapping=False)["input_ids"])
    if not n_tokens:
        raise InputError(f"the text {text!r} has no tokens: give some")
    bos = int(data.hparams["prepend_bos"])
    wanted = [-1] if positions is None else positions
    for position in wanted:
        if not -n_tokens <= position < n_tokens:
            raise InputError(f"position {position} is outside the text's {n_tokens} tokens")
    language_model = data.language_model
    if language_model.widths[hook] != loaded.d_in:
        raise InputError(
            f"the dictionary has d_in {loaded.d_in} but {hook} of {data.model_name.name} has "
            f"{language_model.widths[hook]} dimensions: it was fitted on another model"
        )
    rows = pack(
        [(0, text)],
        data.tokenizer,
        dataset="text",
        n_rows=1,
        context_size=n_tokens + bos,
        packing="one_per_document",
        prepend_bos=bool(bos),
        exclude_first_position=False,
    )
    activations = next(iter(harvest(language_model, rows, 1))).activations[hook][0]
    offset = rows.context_size - len(activations)
    for position in wanted:
        place = position % n_tokens + bos
        if place < offset:
            raise InputError(f"position {position} is the first that the model reads, which dictionaries leave out")
        source = Source(0, 0, place, int(rows.tokens[0, place]), int(rows.start[0, place]), int(rows.end[0, place]))
        x = activations[place - offset][None].float()
        print_decomposition(
            decompose(loaded, x, [rows.prompt(source)])[0], Console(file=sys.stdout), max_terms=max_terms
        )


if __name__ == "__main__":
    run_command(lambda: auto_cli(decompose_text, as_positional=False))
