"""Rows: documents packed into rows of tokens; each token has a document and a span of characters in it."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Int
from torch import Tensor

from itda_lightning.activations.text.row_text import RowText, RowToken, text_of
from itda_lightning.activations.text.tokenizer import Tokenizer, check_fast, encode, special_ids, special_tokens
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError

Packing = Literal["concatenate", "one_per_document"]
# The attributes of ``Rows`` with one entry per token.
PARTS = ("tokens", "document", "start", "end", "kept")


@dataclass(frozen=True)
class Rows:
    """A tokenised dataset: what the model reads, in order.

    Attributes:
        tokens: int64 token ids.
        document: int64 index of each token's document; -1 for padding.
        start, end: int64 span of each token's characters in its document; empty for BOS and separators.
        kept: bool, the tokens whose activations a fit and a metric use.
        first_position: the first position whose activations are read: 1 if no row can keep its position 0.
        dataset: fingerprint of the documents.
        texts: document index -> text, for every document that occurs.
        special_texts: token id -> text, for tokens that stand for no characters.
        extent: the first character of each row in its first document, and the end of those in its last one, including
            what a tokenizer drops before, between and after spans; None for what the spans hold.
    """

    tokens: Int[Tensor, "rows context"]
    document: Int[Tensor, "rows context"]
    start: Int[Tensor, "rows context"]
    end: Int[Tensor, "rows context"]
    kept: Bool[Tensor, "rows context"]
    first_position: int
    dataset: str
    texts: Mapping[int, str]
    special_texts: Mapping[int, str]
    extent: Int[Tensor, "rows 2"] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def context_size(self) -> int:
        return self.tokens.shape[1]

    @property
    def n_kept(self) -> int:
        """The number of activations that a pass over these rows yields."""
        return int(self.kept.sum())

    def select(self, index: Int[Tensor, " m"]) -> "Rows":
        """Return the rows at the given indices, in that order and numbered from 0."""
        extent = None if self.extent is None else self.extent[index]
        return replace(self, extent=extent, **{name: getattr(self, name)[index] for name in PARTS})

    def fingerprint(self) -> str:
        """Hash the dataset, all tokens, their documents and spans, and the mask."""
        digest = xxhash.xxh3_128(self.dataset.encode())
        for name in PARTS:
            digest.update(getattr(self, name).numpy().tobytes())
        return digest.hexdigest()

    def source_table(self, row: Int[Tensor, " m"], position: Int[Tensor, " m"]) -> Int[Tensor, "m 6"]:
        """Return (m, 6) sources of the tokens at (row, position), columns as in ``sources.COLUMNS``."""
        parts = (self.document, self.tokens, self.start, self.end)
        document, token, start, end = (part[row, position] for part in parts)
        return torch.stack([document, row, position, token, start, end], dim=1)

    def hold(self, table: Int[Tensor, "m 6"]) -> bool:
        """Return True if every source of a table is a token of these rows."""
        row, position = table[:, 1], table[:, 2]
        within = (row >= 0) & (row < len(self)) & (position >= 0) & (position < self.context_size)
        return bool(within.all()) and torch.equal(self.source_table(row, position), table)

    def prompt(self, source: Source) -> Prompt:
        """Return the text of a source's row, split at its token: before, token and after are what the model read.

        The token is marked as its tokenizer marks it: without a space that it trims, and with all of a character that
        it shares with other tokens.
        """
        text, places, _ = self._text(source.row)
        start, end = places[source.position]
        return Prompt(text[:start], text[start:end], text[end:])

    def prompts(self, table: Int[Tensor, "m 6"]) -> tuple[Prompt, ...]:
        """Return the prompt of each source of a table."""
        return tuple(self.prompt(Source(*source)) for source in table.tolist())

    def pieces(self, row: int) -> list[str]:
        """Return the text of each token of a row; joined they are the text of the row. Padding is empty.

        Characters that a tokenizer drops between tokens go with the earlier, those that tokens share with the first.
        """
        text, _, ends = self._text(row)
        return [text[start:end] for start, end in itertools.pairwise([0, *ends])]

    def _text(self, row: int) -> RowText:
        columns = (self.tokens[row], self.document[row], self.start[row], self.end[row])
        tokens = [RowToken(*token) for token in zip(*(column.tolist() for column in columns), strict=True)]
        first, last = (tokens[0].start, 0) if self.extent is None else self.extent[row].tolist()
        return text_of(tokens, (first, last), self.texts, self.special_texts)


def pack(
    documents: Iterable[tuple[int, str]],
    tokenizer: Tokenizer,
    *,
    dataset: str,
    n_rows: int,
    context_size: int,
    packing: Packing,
    prepend_bos: bool,
    exclude_special_tokens: bool = True,
    exclude_first_position: bool = True,
) -> Rows:
    """Pack documents (index, text) in order into at most ``n_rows`` rows, reading no more of them than that takes.

    ``concatenate`` puts documents one after another with the EOS token between them and cuts them into rows;
    ``one_per_document`` takes the first ``context_size`` tokens of every document, padded with masked EOS tokens (the
    paper's rows). What is excluded is left out of ``Rows.kept``.
    """
    check_fast(tokenizer)
    bos, eos = special_tokens(tokenizer)
    body = context_size - int(prepend_bos)
    if body < 1:
        raise InputError(f"context_size must leave room for text beside BOS, got {context_size}")

    texts: dict[int, str] = {}
    # (tokens, document, start, end, characters of the document written before and after the token) x length
    blocks: list[np.ndarray] = []
    length = 0
    for index, text in documents:
        block = encode(tokenizer, text, index)
        if not block.size:
            continue
        written = np.maximum.accumulate(block[3])
        block = np.stack([*block, np.concatenate([[0], written[:-1]]), written])
        if packing == "one_per_document":
            if block.shape[1] <= body:
                block[5, -1] = len(text)
            block = block[:, :body]
            padding = np.repeat(np.array([[eos], [-1], [0], [0], [0], [block[5, -1]]]), body - block.shape[1], axis=1)
            block = np.concatenate([block, padding], axis=1)
        else:
            separator = [eos, index, len(text), len(text), written[-1], len(text)]
            block = np.concatenate([block, np.array(separator)[:, None]], axis=1)
        texts[index] = text
        blocks.append(block)
        length += block.shape[1]
        if length >= n_rows * body:
            break
    whole = min(length // body, n_rows)
    flat = np.concatenate(blocks, axis=1) if blocks else np.zeros((6, 0), dtype=np.int64)
    table = flat[:, : whole * body].reshape(6, whole, body)
    extent = torch.from_numpy(np.stack([table[4, :, 0], table[5, :, -1]], axis=1))
    table = table[:4]
    if prepend_bos:
        first = np.stack([np.full(whole, bos), table[1, :, 0], table[2, :, 0], table[2, :, 0]])
        table = np.concatenate([first[:, :, None], table], axis=2)
    tokens, document, start, end = (torch.from_numpy(np.ascontiguousarray(part)) for part in table)

    kept = document >= 0
    special = special_ids(tokenizer)
    if exclude_special_tokens:
        kept &= ~torch.isin(tokens, torch.tensor(special))
    if exclude_first_position:
        kept[:, 0] = False
    # From the settings, not from the mask, so that a selection of rows is read as all of them are.
    first_position = int(exclude_first_position or (prepend_bos and exclude_special_tokens))
    special_texts = {token: tokenizer.decode([token]) for token in special}
    return Rows(tokens, document, start, end, kept, first_position, dataset, texts, special_texts, extent)


def choice(n: int, size: int, seed: int | None) -> Int[Tensor, " size"]:
    """Return ``size`` of n indices: the first ones, or with a seed a random choice in random order."""
    if seed is None:
        return torch.arange(size)
    return torch.from_numpy(np.random.default_rng(seed).permutation(n)[:size])


def draw_rows(kept: Bool[Tensor, "rows context"], n_tokens: int, seed: int) -> Int[Tensor, " m"]:
    """Draw rows at random, in the order drawn, as few as hold ``n_tokens`` kept tokens (all if there are fewer)."""
    order = choice(len(kept), len(kept), seed)
    tokens_so_far = kept[order].sum(1).cumsum(0)
    return order[: int((tokens_so_far < min(n_tokens, int(kept.sum()))).sum()) + 1]
