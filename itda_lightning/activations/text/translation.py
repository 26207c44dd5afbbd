"""Rows of one tokenizer as rows of another: the same characters of the same documents, cut into other tokens."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.activations.text.rows import Rows, Tokenizer
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError

DOCUMENT, ROW, END = (COLUMNS.index(name) for name in ("document", "row", "end"))


def translate(rows: Rows, own: Tokenizer, other: Tokenizer, *, prepend_bos: bool, longest: int | None = None) -> Rows:
    """The rows as a model with another tokenizer reads them: row i holds the same text as row i.

    Documents are tokenised whole, as ``pack`` does it, and a row gets the tokens that lie within its characters; BOS and
    the EOS between documents become those of the other tokenizer. Rows are padded to one length with tokens that are not
    kept. Where both tokenizers cut the texts of these rows into the same tokens, the rows are returned as they are.

    Args:
        rows: as the own tokenizer packed them.
        own, other: fast tokenizers.
        prepend_bos: whether the rows begin with BOS.
        longest: tokens that the other model reads at most; longer rows are cut off there.

    Raises:
        InputError: a tokenizer without character offsets, or with neither BOS nor EOS.
    """
    if not other.is_fast:
        raise InputError("the other tokenizer gives no character offsets: use a fast one (with tokenizer.json)")
    bos = other.bos_token_id if other.bos_token_id is not None else other.eos_token_id
    eos = other.eos_token_id if other.eos_token_id is not None else bos
    if bos is None or eos is None:
        raise InputError("the other tokenizer has neither a BOS nor an EOS token: set one, rows need a separator")
    read = rows.document[rows.document >= 0].unique().tolist()
    if _agree(own, other, (rows.texts[index] for index in read)):
        return rows
    tokenised = {index: _tokens(rows.texts[index], index, other) for index in read}
    translated = []
    for row in range(len(rows)):
        parts = [_special(bos, rows.document[row, 0], rows.start[row, 0])] if prepend_bos else []
        for run in _runs(rows, row, int(prepend_bos)):
            start, end = rows.start[row, run], rows.end[row, run]
            whole = tokenised[int(rows.document[row, run[0]])]
            text = end > start
            if bool(text.any()):
                parts.append(whole[:, (whole[2] >= start[text].min()) & (whole[3] <= end[text].max())])
            if not bool(text[-1]):
                parts.append(_special(eos, rows.document[row, run[-1]], end[-1]))
        translated.append(torch.cat(parts, dim=1)[:, :longest])
    width = max(part.shape[1] for part in translated)
    padding = torch.tensor([[eos], [-1], [0], [0]])
    table = torch.stack([torch.cat([part, padding.expand(4, width - part.shape[1])], dim=1) for part in translated])
    tokens, document, start, end = table.unbind(1)
    kept = end > start
    kept[:, : rows.first_position] = False
    special_texts = {token: other.decode([token]) for token in {bos, eos}}
    return replace(rows, tokens=tokens, document=document, start=start, end=end, kept=kept, special_texts=special_texts)


def places_of(table: Int[Tensor, "m 6"], rows: Rows) -> Int[Tensor, " m"]:
    """(m,) the position of each source in its row of translated rows: the kept token that ends where its token ended.

    -1 where no token ends there. Of several tokens that share a last character it is the last, which has read all of it.
    """
    row, document, end = table[:, ROW], table[:, DOCUMENT], table[:, END]
    same = (rows.document[row] == document[:, None]) & (rows.end[row] == end[:, None]) & rows.kept[row]
    position = torch.arange(rows.context_size).expand_as(same)
    return torch.where(same, position, -1).amax(1)


def _agree(own: Tokenizer, other: Tokenizer, texts: Iterable[str]) -> bool:
    if (own.bos_token_id, own.eos_token_id) != (other.bos_token_id, other.eos_token_id):
        return False
    return all(_ids(own, text) == _ids(other, text) for text in texts)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["input_ids"]


def _tokens(text: str, document: int, tokenizer: Tokenizer) -> Int[Tensor, "4 length"]:
    """Token, document, start and end of every token of a document."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    spans = torch.tensor(encoded["offset_mapping"], dtype=torch.int64).reshape(-1, 2)
    return torch.stack([ids, torch.full_like(ids, document), spans[:, 0], spans[:, 1]])


def _special(token: int, document: Tensor, character: Tensor) -> Int[Tensor, "4 1"]:
    return torch.tensor([[token], [int(document)], [int(character)], [int(character)]])


def _runs(rows: Rows, row: int, first: int) -> list[Int[Tensor, " run"]]:
    """The positions of each document in a row, from ``first`` on."""
    positions = torch.arange(first, rows.context_size)
    _, lengths = rows.document[row, first:].unique_consecutive(return_counts=True)
    return [run for run in positions.split(lengths.tolist()) if int(rows.document[row, run[0]]) >= 0]
