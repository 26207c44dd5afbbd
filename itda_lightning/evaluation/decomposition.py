"""Decompose single activations into weighted atoms."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts
from itda_lightning.evaluation.usage import unexplained_shares
from itda_lightning.results.decomposed_text import DecomposedText, DecomposedToken, WeightedAtom
from itda_lightning.results.run_results import Term, TokenDecomposition


def decompose(
    dictionary: Dictionary, x: Float[Tensor, "batch d"], prompts: Sequence[Prompt]
) -> list[TokenDecomposition]:
    """Decompose each activation, of any floating dtype, into its atoms by falling ``|coefficient|``, re-picks summed.

    Raises:
        InputError: another number of prompts than of activations.
        ValueError: x of another width or with non-finite rows.
    """
    if len(prompts) != len(x):
        raise InputError(f"{len(prompts)} prompts for {len(x)} activations: give one prompt per activation")
    x = x.to(dictionary.bias.device)
    code = dictionary.encode(x).distinct()
    energy, norms = dictionary.centre(x).double().square().sum(-1), x.double().norm(dim=-1)
    unexplained = unexplained_shares(dictionary, x, code)
    order = code.coefficients.abs().argsort(dim=1, descending=True, stable=True)
    support = code.support.gather(1, order).tolist()
    coefficients = code.coefficients.gather(1, order).tolist()
    names, centred = dictionary.label_prompts, bool(dictionary.bias.any())
    return [
        TokenDecomposition(
            prompt,
            share,
            norm,
            tuple(
                Term(atom, coefficient, names[atom] if names is not None else None)
                for atom, coefficient in zip(atoms, row, strict=True)
                if atom >= 0
            ),
            distance if centred else None,
        )
        for prompt, share, norm, distance, atoms, row in zip(
            prompts, unexplained.tolist(), norms.tolist(), energy.sqrt().tolist(), support, coefficients, strict=True
        )
    ]


def decompose_tokens(
    dictionary: Dictionary, data: ActivationsDataModule, hook_name: str, text: str, positions: Sequence[int]
) -> list[TokenDecomposition]:
    """Run a text through the language model and decompose the activations of some of its tokens.

    ``positions`` count the text's tokens from 0 or, if negative, from the end. The dictionary is given its prompts if
    ``data`` are those of its fit.

    Raises:
        InputError: a text that is not Unicode, has no tokens or more than the model can read; a position outside the
            text or one that the fit left out; activations of another width than the atoms.
    """
    read = read_text(dictionary, data, hook_name, text, positions)
    return decompose(dictionary, read.x, read.prompts)


def decomposed_text(
    dictionary: Dictionary,
    data: ActivationsDataModule,
    hook_name: str,
    text: str,
    positions: Sequence[int] | None = None,
) -> DecomposedText:
    """Decompose as ``decompose_tokens``, with labels and shares; ``positions`` None for all that the fit read."""
    read = read_text(dictionary, data, hook_name, text, positions)
    centred = dictionary.centre(read.x.to(dictionary.bias.device)).double()
    tokens = []
    decompositions = decompose(dictionary, read.x, read.prompts)
    for position, decomposition, x in zip(read.positions, decompositions, centred, strict=True):
        rows = dictionary.atoms[[term.atom for term in decomposition.terms]].double()
        projections = (rows @ x / x.square().sum().clamp_min(torch.finfo(torch.float64).tiny)).tolist()
        atoms = [
            WeightedAtom(term.atom, dictionary.label(term.atom), term.coefficient, term.coefficient * projection)
            for term, projection in zip(decomposition.terms, projections, strict=True)
        ]
        token, (norm, unexplained) = decomposition.prompt.token, (decomposition.norm, decomposition.unexplained)
        tokens.append(DecomposedToken(position, token, norm, unexplained, tuple(atoms)))
    return DecomposedText(text, tuple(tokens))


class ReadTokens(NamedTuple):
    """Activations of some tokens of a text, with their prompts and their positions in the text."""

    x: Float[Tensor, "tokens d"]
    prompts: list[Prompt]
    positions: list[int]


def read_text(
    dictionary: Dictionary,
    data: ActivationsDataModule,
    hook_name: str,
    text: str,
    positions: Sequence[int] | None,
) -> ReadTokens:
    """Run a text through the language model; ``positions`` None for all tokens that the fit read. Raises as above."""
    rows = _row_of(text, data)
    bos = int(data.hparams["prepend_bos"])
    if positions is None:
        positions = list(range(int(data.hparams["exclude_first_position"] and not bos), rows.context_size - bos))
    places = _places(rows, list(positions), data)
    language_model = data.language_model
    data.check_width(hook_name, dictionary.d_in)
    longest = language_model.longest_context
    if longest is not None and rows.context_size > longest:
        raise InputError(
            f"the text has {rows.context_size} tokens but {data.model_name.name} reads at most {longest}: "
            "give a part of it"
        )
    add_prompts(dictionary, data)
    activations = next(iter(harvest(language_model, rows, 1))).activations[hook_name][0]
    table = rows.source_table(torch.zeros_like(places), places)
    prompts = [rows.prompt(Source(*source)) for source in table.tolist()]
    return ReadTokens(activations[places].float(), prompts, (places - bos).tolist())


def _row_of(text: str, data: ActivationsDataModule) -> Rows:
    """Tokenize the text into one row, all of whose activations are kept."""
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
    """Return the positions in the row, which may begin with BOS, of tokens of the text."""
    bos = int(data.hparams["prepend_bos"])
    n_tokens = rows.context_size - bos
    for position in positions:
        if not -n_tokens <= position < n_tokens:
            raise InputError(f"position {position} is outside the text's {n_tokens} tokens")
    places = torch.tensor([position % n_tokens + bos for position in positions], dtype=torch.int64)
    if data.hparams["exclude_first_position"] and 0 in places:
        raise InputError(
            f"position {positions[places.tolist().index(0)]} is the first that the model reads, which the fit left "
            "out: its activation dwarfs all others; choose a later one"
        )
    return places
