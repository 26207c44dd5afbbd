"""Retokenise rows: the same characters of the same documents, cut into the tokens of another model's tokenizer."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.tokenizer import Tokenizer, check_fast, encode, special_tokens
from itda_lightning.dictionary.sources import COLUMNS

DOCUMENT, ROW, END = (COLUMNS.index(name) for name in ("document", "row", "end"))


def retokenise(rows: Rows, own: Tokenizer, other: Tokenizer, *, prepend_bos: bool, longest: int | None = None) -> Rows:
    """Return the rows as a model with another tokenizer reads them: row i holds the same text as row i.

    Documents are tokenised whole, as ``pack`` does, and a row gets the tokens that lie within its characters; BOS and
    the EOS between documents become those of the other tokenizer. Rows are padded to one length with tokens that are
    not kept, and cut off at ``longest`` tokens. They are returned unchanged if both tokenizers cut their texts into the
    same tokens. ``own`` has packed them; they begin with BOS if ``prepend_bos`` is True.
    """
    check_fast(other)
    bos, eos = special_tokens(other)
    read = rows.document[rows.document >= 0].unique().tolist()
    if _agree(own, other, (rows.texts[index] for index in read)):
        return rows
    tokenised = {index: torch.from_numpy(encode(other, rows.texts[index], index)) for index in read}
    retokenised, cut = list[Tensor](), list[bool]()
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
        whole_row = torch.cat(parts, dim=1)
        retokenised.append(whole_row[:, :longest])
        cut.append(whole_row.shape[1] > retokenised[-1].shape[1])
    width = max(part.shape[1] for part in retokenised)
    padding = torch.tensor([[eos], [-1], [0], [0]])
    table = torch.stack([torch.cat([part, padding.expand(4, width - part.shape[1])], dim=1) for part in retokenised])
    tokens, document, start, end = table.unbind(1)
    kept = end > start
    kept[:, : rows.first_position] = False
    special_texts = {token: other.decode([token]) for token in {bos, eos}}
    extent = rows.extent
    if extent is not None:  # a row that is cut off ends with its last token
        extent = torch.where(torch.tensor(cut)[:, None], extent * torch.tensor([1, 0]), extent)
    return replace(
        rows,
        tokens=tokens,
        document=document,
        start=start,
        end=end,
        kept=kept,
        special_texts=special_texts,
        extent=extent,
    )


def places_of(table: Int[Tensor, "m 6"], rows: Rows) -> Int[Tensor, " m"]:
    """Return the position of each source in retokenised rows: the kept token that ends at the same character, or -1.

    If several tokens share the last character, it is the last one, which has read all of it.
    """
    row, document, end = table[:, ROW], table[:, DOCUMENT], table[:, END]
    same = (rows.document[row] == document[:, None]) & (rows.end[row] == end[:, None]) & rows.kept[row]
    position = torch.arange(rows.context_size).expand_as(same)
    return torch.where(same, position, -1).amax(1)


def _agree(own: Tokenizer, other: Tokenizer, texts: Iterable[str]) -> bool:
    if (own.bos_token_id, own.eos_token_id) != (other.bos_token_id, other.eos_token_id):
        return False
    return all(np.array_equal(encode(own, text, 0)[0], encode(other, text, 0)[0]) for text in texts)


def _special(token: int, document: Tensor, character: Tensor) -> Int[Tensor, "4 1"]:
    return torch.tensor([[token], [int(document)], [int(character)], [int(character)]])


def _runs(rows: Rows, row: int, first: int) -> list[Int[Tensor, " run"]]:
    """Return the positions of each document in a row, from ``first`` on."""
    positions = torch.arange(first, rows.context_size)
    _, lengths = rows.document[row, first:].unique_consecutive(return_counts=True)
    return [run for run in positions.split(lengths.tolist()) if int(rows.document[row, run[0]]) >= 0]
