"""Read a dictionary by the language model and the text of its fit: what its own methods do, and the model itself."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from datasets import Dataset
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from itda_lightning.activations.batches import UsableActivations, kept_activations
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import harvest
from itda_lightning.activations.text.documents import load_documents
from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.activations.text.tokenizer import encode
from itda_lightning.dictionary.atoms_with_model import READ_BY
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts, data_for
from itda_lightning.evaluation.decomposition import decomposed_text
from itda_lightning.fitting.from_python import given_texts
from itda_lightning.machine.checks import check_at_least, check_choice
from itda_lightning.results.contexts import Context, Contexts
from itda_lightning.results.decomposed_text import DecomposedText

LONGEST_ROW = 1024  # tokens of a row of given texts, if the model reads more
Texts: TypeAlias = str | Path | Sequence[str] | Dataset


def data_of(dictionary: Dictionary, device: str = "auto") -> tuple[str, ActivationsDataModule]:
    """Return the hook point of a dictionary and its data, which are opened once and kept as long as the dictionary.

    Raises InputError for a dictionary that does not name its model.
    """
    dictionary.check_one_site()
    hook, settings = dictionary.metadata.get("hook_name"), dictionary.metadata.get("data")
    if hook is None or not settings:
        raise InputError(
            "the dictionary does not name its model and hook point: load it from its run directory, or use "
            "dictionary.encode and dictionary.detect on activations"
        )
    key = None if READ_BY.get(dictionary, ("",))[0] is None else json.dumps([hook, settings, device], default=str)
    if dictionary not in READ_BY or READ_BY[dictionary][0] != key:
        READ_BY[dictionary] = key, data_for(dictionary, None, hook, device)
    return hook, READ_BY[dictionary][1]


def load_model(dictionary: Dictionary, device: str = "auto") -> Any:
    """Load the language model that a dictionary is of, as its fit did: ready to run, and to steer.

    Args:
        dictionary: its metadata name the model, its loader and dtype.
        device: auto, cpu, cuda or cuda:N.

    Returns:
        TransformerLens's bridge or HookedTransformer, or a model of `transformers`, each with its ``tokenizer``. It is
        loaded once and shared with ``dictionary.decompose``.

    Raises:
        InputError: a dictionary without a model, such as one of an array; a model that cannot be loaded.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> il.load_model(il.Dictionary(torch.eye(4), k=1))
        Traceback (most recent call last):
        itda_lightning.errors.InputError: the dictionary does not name its model and hook point: load it from ...
    """
    _, data = data_of(dictionary, device)
    loaded = data.language_model
    if data.model_name.loader != "huggingface":
        return loaded.model
    loaded.model.model.tokenizer = loaded.tokenizer
    return loaded.model.model


def decompose_by_model(dictionary: Dictionary, text: str, positions: Sequence[int] | int | None, device: str) -> Any:
    """Do the work of ``Dictionary.decompose``."""
    hook, data = data_of(dictionary, device)
    positions = [positions] if isinstance(positions, int) else positions
    result: DecomposedText = decomposed_text(dictionary, data, hook, text, positions)
    return result


def top_contexts(
    dictionary: Dictionary,
    atom: int,
    n: int,
    texts: Texts | None,
    by: str,
    device: str,
) -> Contexts:
    """Do the work of ``Dictionary.top_contexts``."""
    atom = dictionary.check_atom(atom)
    check_at_least(1, {"n": n})
    check_choice(("cosine", "coefficient"), {"by": by})
    hook, data = data_of(dictionary, device)
    if texts is None:
        rows, batches = data.rows("heldout"), data.heldout_batches(hook, d_in=dictionary.d_in)
    else:
        rows = rows_of_texts(texts, data)
        data.check_width(hook, dictionary.d_in)
        batches = activations_of_rows(rows, data, hook)
    strengths, tables = [torch.zeros(0)], [torch.zeros(0, 6, dtype=torch.int64)]
    for x, table in batches:
        strength = _strength(dictionary, x.to(dictionary.bias.device), atom, by).cpu()
        kept = strength.abs().topk(min(n, len(x))).indices
        strengths.append(strength[kept])
        tables.append(table[kept])
    strength, table = torch.cat(strengths), torch.cat(tables)
    order = strength.abs().argsort(descending=True, stable=True)[:n]
    used = order[strength[order] > 0 if by == "cosine" else strength[order] != 0]
    add_prompts(dictionary, data)
    found = zip(strength[used].tolist(), rows.prompts(table[used]), strict=True)
    return Contexts(atom, dictionary.label(atom), by, tuple(Context(*one) for one in found))


def _strength(dictionary: Dictionary, x: Float[Tensor, "batch d"], atom: int, by: str) -> Float[Tensor, " batch"]:
    if by == "cosine":
        cosine = normalize(dictionary.centre(x), dim=1) @ dictionary.atoms[atom].to(dictionary.bias.dtype)
        return cosine.clamp(min=0).float()
    code = dictionary.encode(x)
    return torch.where(code.support == atom, code.coefficients, 0.0).sum(1).float()


def rows_of_texts(texts: Texts, data: ActivationsDataModule) -> Rows:
    """Pack given texts into rows as the fit's are; all but a few tokens at the very end are in them.

    Raises InputError for what is no text, or has no tokens.
    """
    column = "text" if isinstance(texts, (list, tuple)) else data.hparams["text_column"]
    documents = load_documents(given_texts(texts), text_column=column)
    listed = list(documents.in_order())
    lengths = [encode(data.tokenizer, text, index).shape[1] for index, text in listed]
    total, bos = sum(length + 1 for length in lengths if length), int(data.hparams["prepend_bos"])
    if not total:
        raise InputError(f"the {len(listed)} texts have no tokens: give some")
    longest = min(data.language_model.longest_context or LONGEST_ROW, LONGEST_ROW) - bos
    n_rows = -(-total // longest)
    return pack(
        listed,
        data.tokenizer,
        dataset=documents.fingerprint,
        n_rows=n_rows,
        context_size=total // n_rows + bos,
        packing="concatenate",
        prepend_bos=bool(bos),
        exclude_special_tokens=data.hparams["exclude_special_tokens"],
        exclude_first_position=data.hparams["exclude_first_position"],
    )


def activations_of_rows(rows: Rows, data: ActivationsDataModule, hook: str) -> Iterator[UsableActivations]:
    """Iterate over the usable activations of any rows at a hook point, by the language model, with their sources."""
    for part in harvest(data.language_model, rows, data.hparams["model_batch_size"]):
        usable = kept_activations(rows, part).usable(hook)
        if len(usable.x):
            yield usable
