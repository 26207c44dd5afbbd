"""The tokens of several models that are the same position of the same text, and all models' activations there.

Models that read the same tokens are aligned token by token. Others are aligned by characters: tokens of two tokenizers
that end at the same character of the same document are the same position, as both models have then read the same text.
"""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.split import Split
from itda_lightning.errors import InputError

Alignment = Literal["auto", "tokens", "characters"]
Unit = Literal["tokens", "characters"]
BATCH = 4096


class AlignedTokens(NamedTuple):
    """The n tokens that all models have: spans of document, start and end character, and places in each model's rows.

    They are in the order of the first model's rows. If they are aligned by characters, start is end.
    """

    spans: Int[Tensor, "n 3"]
    places: tuple[Int[Tensor, "n 2"], ...]  # row and position of each token, for each model

    def select(self, index: Tensor) -> "AlignedTokens":
        """Return the tokens at indices, or at the true entries of a mask."""
        return AlignedTokens(self.spans[index], tuple(places[index] for places in self.places))


def unit_of_alignment(alignment: Alignment, rows: Sequence[Rows]) -> Unit:
    """Return the unit of alignment: the required one; for "auto" tokens if all models read the same, else characters.

    Raises InputError if tokens are required, but the models read different ones.
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
    """Return the kept tokens that all models have; InputError if there are none. Rows are of the same dataset."""
    if unit == "tokens":
        places = rows[0].kept.nonzero()
        return AlignedTokens(_spans(rows[0], places, unit), (places,) * len(rows))
    ends = [_last_of_each_end(one) for one in rows]
    first = ends[0][0]
    # For each model, the place of each token of the first among its own.
    own = torch.stack([index_among(spans, first) for spans, _ in ends])
    common = (own >= 0).all(0)
    if not bool(common.any()):
        raise InputError(
            f"no token of the {len(rows)} models ends at the same character of the same document: they read different "
            "text; raise the numbers of tokens, or give the models the same data settings"
        )
    return AlignedTokens(
        first[common], tuple(places[index[common]] for (_, places), index in zip(ends, own, strict=True))
    )


def common_sources(rows: Sequence[Rows], unit: Unit) -> Int[Tensor, "m 3"]:
    """Return the sources that could have become atoms of any of the fits: the distinct tokens that all read, sorted.

    Raises InputError if there are none.
    """
    each = torch.cat([_spans(one, one.kept.nonzero(), unit).unique(dim=0) for one in rows])
    distinct, counts = each.unique(dim=0, return_counts=True)
    common = distinct[counts == len(rows)]
    if not len(common):
        raise InputError(
            "the fits have no token in common, so no source can be an atom of more than one: fit them on the same "
            "documents"
        )
    return common


def source_spans(table: Int[Tensor, "n 6"], unit: Unit) -> Int[Tensor, "n 3"]:
    """Return document, start and end of sources, as in ``AlignedTokens``."""
    document, start, end = table[:, 0], table[:, 4], table[:, 5]
    return torch.stack([document, end if unit == "characters" else start, end], dim=1)


def index_among(spans: Int[Tensor, "m 3"], others: Int[Tensor, "n 3"]) -> Int[Tensor, " n"]:
    """Return the index of each of the others among the distinct spans, -1 if it is none of them."""
    distinct, inverse = torch.cat([spans, others]).unique(dim=0, return_inverse=True)
    place = torch.full((len(distinct),), -1)
    place[inverse[: len(spans)]] = torch.arange(len(spans))
    return place[inverse[len(spans) :]]


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


class AlignedActivations:
    """Activations of several models, read from their caches; row i of each is the same position of one text.

    Tokens at which an activation is zero or not finite in some model are left out (``left_out`` of them); ``documents``
    are those of the others. Raises InputError if there are none.
    """

    def __init__(
        self,
        models: Sequence[tuple[ActivationsDataModule, list[str]]],
        tokens: AlignedTokens,
        split: Split = "heldout",
    ) -> None:
        """``models``: data and hook points of each; ``tokens`` are those of a split's rows."""
        self._models, self._tokens, self._split = models, tokens, split
        self.documents = tokens.spans[:, 0]
        usable = torch.ones(len(self), dtype=torch.bool)
        for rows, parts in self.batches("Check activations"):
            for x in parts:
                usable[rows] &= torch.isfinite(x).all(1) & (x != 0).any(1)
        self.left_out = int((~usable).sum())
        if not bool(usable.any()):
            raise InputError(
                f"at none of {len(usable):,} tokens in common are the activations of all models finite and not all "
                "zero: look at model_dtype, or compare other hook points"
            )
        self._tokens, self.documents = tokens.select(usable), self.documents[usable]

    def __len__(self) -> int:
        return len(self.documents)

    def batches(self, description: str) -> Iterator[tuple[Int[Tensor, " batch"], list[Float[Tensor, "batch _"]]]]:
        """Yield indices of tokens with their activations; ``description`` labels the progress bar."""
        with tqdm(total=len(self), desc=description, unit=" tokens", unit_scale=True) as bar:
            for index in torch.arange(len(self)).split(BATCH):
                yield index, self.at(index)
                bar.update(len(index))

    def at(self, index: Int[Tensor, " m"]) -> list[Float[Tensor, "m _"]]:
        """Return the activations of every hook point of every model at some of the tokens, float32."""
        parts = []
        for (data, hook_names), places in zip(self._models, self._tokens.places, strict=True):
            parts += _read(data, hook_names, places[index], self._split)
        return parts

    @property
    def places(self) -> Int[Tensor, "n 2"]:
        """Row and position of each token in the first model's rows."""
        return self._tokens.places[0]


def _read(
    data: ActivationsDataModule, hook_names: Sequence[str], places: Int[Tensor, "m 2"], split: Split
) -> list[Tensor]:
    """Return the cached activations at (row, position) of each hook point, reading runs of consecutive rows."""
    cache = data.cache(split)
    assert cache is not None
    x = {hook: torch.empty(len(places), cache.widths[hook]) for hook in hook_names}
    rows = places[:, 0].unique()
    for run in rows.tensor_split((rows.diff() > 1).nonzero()[:, 0] + 1):
        first, last = int(run[0]), int(run[-1])
        inside = (places[:, 0] >= first) & (places[:, 0] <= last)
        row, position = (places[inside] - torch.tensor([first, data.rows(split).first_position])).T
        read = cache.read(first, last + 1).activations
        for hook, values in x.items():
            values[inside] = read[hook][row, position].float()
    return list(x.values())
