"""Command: what a text's activations are made of (``python -m itda_lightning.decompose --help``)."""

import sys

import torch
from jaxtyping import Int
from rich.console import Console
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts, check_width, data_for, hook_point
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.checks import check_at_least
from itda_lightning.machine.command_line import run_command, run_function
from itda_lightning.report.terminal import print_decomposition


def decompose_text(
    dictionary: str,
    text: str,
    positions: list[int] | None = None,
    hook_name: str | None = None,
    max_terms: int | None = None,
    device: str = "auto",
    data_config: str | None = None,
) -> None:
    """Print the activations of a text as tables of atoms: index, coefficient, the atom's prompt with its token marked.

    Args:
        dictionary: a run directory, a checkpoint, or a saved or exported dictionary.
        text: any text; the language model of the dictionary reads it.
        positions: tokens of the text to decompose, counted from 0 or, negative, from the end, as in "[0,-1]"; by default
            the last one.
        hook_name: which dictionary, where there are several.
        max_terms: print at most so many atoms a token.
        device: where the language model runs: auto, cpu, cuda or cuda:N.
        data_config: the fit config whose data section names the model; by default that of the dictionary's own fit.
    """
    check_at_least(1, {"--max_terms": max_terms})
    loaded = load_dictionary(dictionary, hook_name)
    hook = hook_point(loaded, hook_name, dictionary)
    data = data_for(loaded, data_config, hook, device)
    rows = _row_of(text, data)
    places = _places(rows, positions or [-1], data)
    language_model = data.language_model
    check_width(loaded, language_model.widths[hook], data, hook)
    longest = language_model.longest_context
    if longest is not None and rows.context_size > longest:
        raise InputError(
            f"the text has {rows.context_size} tokens but {data.model_name.name} reads at most {longest}: give a part of it"
        )
    add_prompts(loaded, data)
    activations = next(iter(harvest(language_model, rows, 1))).activations[hook][0]
    table = rows.source_table(torch.zeros_like(places), places)
    prompts = [rows.prompt(Source(*source)) for source in table.tolist()]
    console = Console(file=sys.stdout)
    cosines = loaded.cosines.tolist() if loaded.cosines is not None else None
    for decomposition in decompose(loaded, activations[places].float(), prompts):
        print_decomposition(decomposition, console, max_terms=max_terms, cosines=cosines)


def _row_of(text: str, data: ActivationsDataModule) -> Rows:
    """The text as the model reads it: one row, every activation of it kept."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text is not Unicode ({error}): give it in UTF-8") from error
    n_tokens = len(data.tokenizer(text, add_special_tokens=False, return_offsets_mapping=False)["input_ids"])
    if not n_tokens:
        raise InputError(f"the text {text!r} has no tokens: give some")
    bos = bool(data.hparams["prepend_bos"])
    return pack(
        [(0, text)],
        data.tokenizer,
        dataset="text",
        n_rows=1,
        context_size=n_tokens + bos,
        packing="one_per_document",
        prepend_bos=bos,
        exclude_special_tokens=False,
        exclude_first_position=False,
    )


def _places(rows: Rows, positions: list[int], data: ActivationsDataModule) -> Int[Tensor, " places"]:
    """Where in the row the tokens lie that were asked for."""
    bos = int(data.hparams["prepend_bos"])
    n_tokens = rows.context_size - bos
    for position in positions:
        if not -n_tokens <= position < n_tokens:
            raise InputError(f"position {position} is outside the text's {n_tokens} tokens")
    places = torch.tensor([position % n_tokens + bos for position in positions], dtype=torch.int64)
    if data.hparams["exclude_first_position"] and 0 in places:
        raise InputError(
            f"position {positions[places.tolist().index(0)]} is the first that the model reads, which the fit left out: "
            "its activation dwarfs all others; ask for a later one"
        )
    return places


def main(args: list[str] | None = None) -> None:
    """Parse the command line and run the command."""
    run_function(decompose_text, "decompose", args)


if __name__ == "__main__":
    run_command(main)
