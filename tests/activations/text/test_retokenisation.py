"""Rows in another tokenizer's tokens hold the same text, and sources are found at the same characters."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from itda_lightning.activations.text.retokenisation import places_of, retokenise
from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.errors import InputError
from tests.activations.text.test_rows import TEXTS, Changed, packed
from tests.tiny_model import save_tokenizer


@pytest.fixture(scope="module")
def coarse(prose, tmp_path_factory) -> Any:
    """A tokenizer of other, longer tokens, and of other ids for the same ones."""
    path = tmp_path_factory.mktemp("coarse")
    save_tokenizer(path, [text.upper() for text in prose[:10]] + TEXTS * 50)
    return AutoTokenizer.from_pretrained(path)


def sources(rows: Rows) -> torch.Tensor:
    """The table of all that is kept."""
    return rows.source_table(*rows.kept.nonzero(as_tuple=True))


def text_of(rows: Rows, row: int) -> str:
    return "".join(rows.pieces(row))


def test_the_same_tokenizer_leaves_rows_as_they_are(tokenizer) -> None:
    rows = packed(tokenizer)
    assert retokenise(rows, tokenizer, tokenizer, prepend_bos=True) is rows


def forced(rows: Rows, tokenizer: Any, prepend_bos: bool, longest: int | None = None) -> Rows:
    """Retokenise although both tokenizers cut text alike, by giving one another BOS."""
    return retokenise(rows, Changed(tokenizer, bos_token_id=None), tokenizer, prepend_bos=prepend_bos, longest=longest)


@given(
    texts=st.lists(st.text(st.sampled_from("ab .,\n<s>"), min_size=1, max_size=40), min_size=1, max_size=5),
    context_size=st.integers(2, 9),
    packing=st.sampled_from(["concatenate", "one_per_document"]),
    prepend_bos=st.booleans(),
)
def test_by_the_same_tokens_every_row_comes_back(tokenizer, texts, context_size, packing, prepend_bos) -> None:
    rows = packed(tokenizer, texts, context_size=context_size, packing=packing, prepend_bos=prepend_bos)
    if not len(rows):
        return
    found = forced(rows, tokenizer, prepend_bos)
    width = found.context_size
    for name in ("tokens", "document", "start", "end"):
        assert torch.equal(getattr(found, name), getattr(rows, name)[:, :width])
    assert not bool((rows.document[:, width:] >= 0).any())
    table = sources(rows)
    assert torch.equal(places_of(table, found), table[:, 2])


def test_rows_hold_the_same_text_in_other_tokens(tokenizer, coarse, prose) -> None:
    rows = packed(tokenizer, prose[:6], context_size=32)
    found = retokenise(rows, tokenizer, coarse, prepend_bos=True)
    assert len(found) == len(rows)
    for row in range(len(rows)):
        text, other = text_of(rows, row), text_of(found, row)
        assert other.startswith("<s>")
        # Only what a token of the other tokenizer holds together with the next or the last row is not there.
        assert other.removeprefix("<s>") in text
        assert len(text) - len(other) < 25


def test_a_source_is_the_token_that_ends_at_the_same_character(tokenizer, coarse, prose) -> None:
    rows = packed(tokenizer, prose[:6], context_size=32)
    found = retokenise(rows, tokenizer, coarse, prepend_bos=True)
    table = sources(rows)
    position = places_of(table, found)
    ends = {
        (row, int(found.document[row, place]), int(found.end[row, place])): place
        for row in range(len(found))
        for place in range(found.context_size)
        if found.kept[row, place]
    }
    expected = [ends.get((row, document, end), -1) for document, row, _, _, _, end in table.tolist()]
    assert position.tolist() == expected
    assert 0 < expected.count(-1) < len(expected) / 2


def test_of_the_tokens_of_one_character_the_last_is_the_source(tokenizer) -> None:
    rows = packed(tokenizer, ["a 🙂 b"], context_size=8, packing="one_per_document")
    (shared,) = [part for part in rows.end[0].unique() if int((rows.end[0] == part).sum()) > 1 and int(part) > 0]
    position = places_of(sources(rows), rows)
    assert position[sources(rows)[:, 5] == shared].unique().tolist() == [int((rows.end[0] == shared).nonzero().max())]


def test_rows_longer_than_the_model_reads_are_cut_and_short_ones_padded(tokenizer, coarse, prose) -> None:
    rows = packed(tokenizer, [prose[0], "x"], context_size=64, packing="one_per_document")
    whole = retokenise(rows, tokenizer, coarse, prepend_bos=True)
    cut = retokenise(rows, tokenizer, coarse, prepend_bos=True, longest=10)
    assert cut.context_size == 10 < whole.context_size
    assert torch.equal(cut.tokens, whole.tokens[:, :10])
    assert cut.document[1, 2:].unique().tolist() == [-1]
    assert not bool(cut.kept[1, 2:].any())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_fast": False}, "gives no character offsets"),
        ({"bos_token_id": None, "eos_token_id": None}, "neither a BOS nor an EOS"),
    ],
)
def test_a_tokenizer_that_cannot_be_used_is_refused(tokenizer, changes, message) -> None:
    rows = pack(
        [(0, "Some text.")],
        tokenizer,
        dataset="",
        n_rows=1,
        context_size=4,
        packing="concatenate",
        prepend_bos=True,
    )
    with pytest.raises(InputError, match=message):
        retokenise(rows, tokenizer, Changed(tokenizer, **changes), prepend_bos=True)
