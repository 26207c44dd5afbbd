"""Rows of made-up tokens, each with its characters in a document."""

import itertools

import torch

from itda_lightning.activations.text.rows import Rows

Span = tuple[int, int, int]


def make_rows(spans: list[Span], context: int = 4, dataset: str = "a", drop: frozenset[int] = frozenset()) -> Rows:
    """Cut tokens, given by (document, start, end), into rows; padding and the indices in ``drop`` are not kept."""
    padded = spans + [(-1, 0, 0)] * (-len(spans) % context)
    table = torch.tensor(padded, dtype=torch.int64).reshape(-1, context, 3)
    document, start, end = table.unbind(2)
    kept = document >= 0
    for index in drop:
        kept.view(-1)[index] = False
    tokens = torch.arange(document.numel()).reshape(document.shape)
    return Rows(tokens, document, start, end, kept, 0, dataset, {}, {})


def cut(lengths: list[int], document: int = 0) -> list[Span]:
    """Return tokens of these lengths, one after another."""
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    return [(document, start, end) for start, end in itertools.pairwise(ends)]
