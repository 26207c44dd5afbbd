"""Find the tokens of several models that are the same position of the same text.

Models that read the same tokens are aligned token by token. Others are aligned by characters: tokens of two tokenizers
that end at the same character of the same document are the same position, as both models have then read the same text.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.activations.text.rows import Rows
from itda_lightning.errors import InputError

Alignment = Literal["auto", "tokens", "characters"]
Unit = Literal["tokens", "characters"]


class AlignedTokens(NamedTuple):
    """The n tokens that all models have.

    Attributes:
        spans: (n, 3) int64 document, start and end character, in the order of the first model's rows; if aligned by
            characters, start is end.
        places: for each model (n, 2) int64 row and position of each token.
    """

    spans: Int[Tensor, "n 3"]
    places: tuple[Int[Tensor, "n 2"], ...]

    def select(self, index: Tensor) -> "AlignedTokens":
        """Return the tokens at indices, or at the true entries of a mask."""
        return AlignedTokens(self.spans[index], tuple(places[index] for places in self.places))


def unit_of_alignment(alignment: Alignment, rows: Sequence[Rows]) -> Unit:
    """Return the unit of alignment: tokens if all models read the same ones, else characters.

    Args:
        alignment: the required unit, or "auto".
        rows: rows of each model that are compared.

    Raises:
        InputError: tokens are required, but the models read different ones.
    """
    same = len({one.fingerprint() for one in rows}) == 1
    if alignment == "tokens" and not same:
        raise InputError(
            "alignment is tokens, but the models read different tokens of the same text, since their tokenizers "
            "differ: set alignment to characters or auto"
        )
    if alignment == "auto":
        return "tokens" if same else "characters"
    return alignment


def align(rows: Sequence[Rows], unit: Unit) -> AlignedTokens:
    """Return the kept tokens that all models have, in the order of the first model's rows.

    Args:
        rows: rows of each model, of the same dataset.
        unit: their ``unit_of_alignment``.

    Raises:
        InputError: no token in common.
    """
    if unit == "tokens":
        places = rows[0].kept.nonzero()
        return AlignedTokens(_spans(rows[0], places, unit), (places,) * len(rows))
    ends = [_last_of_each_end(one) for one in rows]
    common = common_spans([spans for spans, _ in ends])
    if not len(common):
        raise InputError(
            f"no token of the {len(rows)} models ends at the same character of the same document: they read different "
            "text; raise the numbers of tokens, or give the models the same data settings"
        )
    # For each model, the place of each common token among its own tokens.
    own = [torch.empty(len(common), dtype=torch.int64) for _ in rows]
    for place, (spans, _) in zip(own, ends, strict=True):
        index = index_among(common, spans)
        place[index[index >= 0]] = (index >= 0).nonzero()[:, 0]
    order = own[0].argsort()
    return AlignedTokens(
        common[order],
        tuple(places[place[order]] for (_, places), place in zip(ends, own, strict=True)),
    )


def common_sources(rows: Sequence[Rows], unit: Unit) -> Int[Tensor, "m 3"]:
    """Return the (m, 3) sources that could have become atoms of any of the fits: the distinct tokens that all read.

    Args:
        rows: rows that each fit read, of the same dataset.
        unit: the unit of alignment of the models.

    Raises:
        InputError: no token in common.
    """
    common = common_spans([_spans(one, one.kept.nonzero(), unit) for one in rows])
    if not len(common):
        raise InputError(
            "the fits have no token in common, so no source can be an atom of more than one: fit them on the same "
            "documents"
        )
    return common


def source_spans(table: Int[Tensor, "n 6"], unit: Unit) -> Int[Tensor, "n 3"]:
    """Return (n, 3) document, start and end of sources, as in ``AlignedTokens``."""
    document, start, end = table[:, 0], table[:, 4], table[:, 5]
    return torch.stack([document, end if unit == "characters" else start, end], dim=1)


def index_among(spans: Int[Tensor, "m 3"], others: Int[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """Return the (n,) index of each of the others among m distinct spans, -1 if it is none of them."""
    distinct, inverse = torch.cat([spans, others]).unique(dim=0, return_inverse=True)
    place = torch.full((len(distinct),), -1)
    place[inverse[: len(spans)]] = torch.arange(len(spans))
    return place[inverse[len(spans) :]]


def common_spans(spans: Sequence[Int[Tensor, "_ 3"]]) -> Int[Tensor, "m 3"]:
    """Return the (m, 3) spans that are in all, distinct and sorted."""
    distinct = torch.cat([part.unique(dim=0) for part in spans])
    both, counts = distinct.unique(dim=0, return_counts=True)
    return both[counts == len(spans)]


def _spans(rows: Rows, places: Int[Tensor, "n 2"], unit: Unit) -> Int[Tensor, "n 3"]:
    return source_spans(rows.source_table(places[:, 0], places[:, 1]), unit)


def _last_of_each_end(rows: Rows) -> tuple[Int[Tensor, "n 3"], Int[Tensor, "n 2"]]:
    """Return distinct spans and their places; of tokens that share a character's bytes, the one completing it."""
    places = rows.kept.nonzero()
    spans = _spans(rows, places, "characters")
    distinct, inverse = spans.unique(dim=0, return_inverse=True)
    last = torch.zeros(len(distinct), dtype=torch.int64)
    last.scatter_reduce_(0, inverse, torch.arange(len(spans)), "amax", include_self=False)
    last = last.sort().values
    return spans[last], places[last]
