"""Rows hold the documents' tokens in order, each with its characters."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.activations.text.rows import Rows, choice, pack
from itda_lightning.errors import InputError
from tests.tiny_model import BOS, EOS

TEXTS = ["The first document.", "", "A second — naïve 🙂🙂 one", "x", "and <s> a last one </s> with more words in it"]


class Changed:
    """A tokenizer with other special tokens, or a slow one."""

    def __init__(self, tokenizer: Any, **changes: Any) -> None:
        self.tokenizer = tokenizer
        for name in ("is_fast", "bos_token_id", "eos_token_id", "all_special_ids"):
            setattr(self, name, changes.get(name, getattr(tokenizer, name)))

    def __call__(self, text: str, **options: Any) -> Any:
        return self.tokenizer(text, **options)

    def decode(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode(token_ids)


def packed(tokenizer: Any, texts: list[str] = TEXTS, **changes: Any) -> Rows:
    settings = {"n_rows": 1000, "context_size": 8, "packing": "concatenate", "prepend_bos": True}
    return pack(enumerate(texts), tokenizer, dataset="fingerprint", **(settings | changes))


def ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("prepend_bos", [True, False])
@given(texts=st.lists(st.text(max_size=25), max_size=6), context_size=st.integers(2, 12))
def test_concatenated_rows_are_the_documents_with_eos_between(
    tokenizer: Any, prepend_bos: bool, texts: list[str], context_size: int
) -> None:
    rows = packed(tokenizer, texts, context_size=context_size, prepend_bos=prepend_bos)
    stream = [token for text in texts if text for token in [*ids(tokenizer, text), EOS]]
    body = context_size - prepend_bos
    assert rows.tokens[:, prepend_bos:].flatten().tolist() == stream[: len(stream) // body * body]
    assert not prepend_bos or (rows.tokens[:, 0] == BOS).all()


@pytest.mark.parametrize("prepend_bos", [True, False])
@given(texts=st.lists(st.text(max_size=25), max_size=6), context_size=st.integers(2, 12))
def test_one_row_per_document_is_its_first_tokens_and_masked_padding(
    tokenizer: Any, prepend_bos: bool, texts: list[str], context_size: int
) -> None:
    rows = packed(
        tokenizer,
        texts,
        context_size=context_size,
        prepend_bos=prepend_bos,
        packing="one_per_document",
        exclude_special_tokens=False,
        exclude_first_position=False,
    )
    body = context_size - prepend_bos
    heads = [ids(tokenizer, text)[:body] for text in texts if text]
    assert rows.tokens[:, prepend_bos:].tolist() == [head + [EOS] * (body - len(head)) for head in heads]
    assert rows.kept.sum(1).tolist() == [prepend_bos + len(head) for head in heads]
    assert (rows.document >= 0).equal(rows.kept)


@pytest.mark.parametrize("packing", ["concatenate", "one_per_document"])
@given(texts=st.lists(st.text(max_size=25), max_size=6))
def test_every_token_knows_its_characters(tokenizer: Any, packing: str, texts: list[str]) -> None:
    rows = packed(tokenizer, texts, packing=packing)
    columns = (rows.tokens, rows.document, rows.start, rows.end)
    for token, document, start, end in zip(*(column.flatten().tolist() for column in columns), strict=True):
        if document < 0 or start == end:
            assert token in (BOS, EOS)
            continue
        text, decoded = texts[document][start:end], tokenizer.decode([token])
        # A character of which the token holds some bytes only belongs to its span.
        assert text == decoded or ("\ufffd" in decoded and any(ord(character) > 127 for character in text))


def test_bos_and_separators_belong_to_the_document_they_stand_in(tokenizer: Any) -> None:
    rows = packed(tokenizer, ["one two", "three"], context_size=4)
    for row in range(len(rows)):
        assert rows.document[row, 0] == rows.document[row, 1]
        assert rows.start[row, 0] == rows.end[row, 0] == rows.start[row, 1]
    separator = (rows.tokens == EOS).nonzero()[0]
    row, position = separator.tolist()
    assert (rows.document[row, position], rows.start[row, position], rows.end[row, position]) == (0, 7, 7)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("prepend_bos", [True, False])
def test_the_mask_leaves_out_what_is_asked_for(tokenizer: Any, special: bool, first: bool, prepend_bos: bool) -> None:
    rows = packed(tokenizer, prepend_bos=prepend_bos, exclude_special_tokens=special, exclude_first_position=first)
    expected = torch.ones_like(rows.kept)
    if special:  # also those that a document spells out
        expected &= (rows.tokens != BOS) & (rows.tokens != EOS)
    if first:
        expected[:, 0] = False
    assert rows.kept.equal(expected)
    assert rows.n_kept == int(expected.sum()) > 0
    assert not rows.kept[:, : rows.first_position].any()
    assert rows.first_position == int(first or (special and prepend_bos))


def test_a_choice_of_rows_keeps_its_first_position(tokenizer: Any) -> None:
    # Else activations of a few rows, which all begin with a separator, would not line up with those of a cache.
    rows = packed(tokenizer, ["x", "x", "x"], context_size=2, prepend_bos=False, exclude_first_position=False)
    ends = rows.select((~rows.kept[:, 0]).nonzero()[:, 0])
    assert ends.first_position == rows.first_position == 0


@pytest.mark.parametrize("packing", ["concatenate", "one_per_document"])
def test_no_more_documents_are_read_than_the_rows_take(tokenizer: Any, packing: str) -> None:
    read = []

    def documents() -> Iterator[tuple[int, str]]:
        for index in range(100):
            read.append(index)
            yield index, "xyzzy" * 3

    rows = pack(documents(), tokenizer, dataset="d", n_rows=3, context_size=8, packing=packing, prepend_bos=True)
    assert len(rows) == 3
    assert set(rows.texts) == set(rows.document.flatten().tolist()) - {-1}
    assert read == sorted(rows.texts)


def test_empty_documents_are_passed_over(tokenizer: Any) -> None:
    rows = packed(tokenizer, packing="one_per_document")
    assert rows.document[:, 1].tolist() == [0, 2, 3, 4]


def test_no_documents_make_no_rows(tokenizer: Any) -> None:
    for packing in ("concatenate", "one_per_document"):
        rows = packed(tokenizer, [], packing=packing)
        assert (len(rows), rows.n_kept, rows.context_size) == (0, 0, 8)


def test_a_slow_tokenizer_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="the tokenizer gives no character offsets: use a fast tokenizer"):
        packed(Changed(tokenizer, is_fast=False))


def test_one_special_token_stands_in_for_the_other(tokenizer: Any) -> None:
    only_eos = packed(Changed(tokenizer, bos_token_id=None))
    assert (only_eos.tokens[:, 0] == EOS).all()
    only_bos = packed(Changed(tokenizer, eos_token_id=None, all_special_ids=[BOS]))
    assert EOS not in only_bos.tokens[:2]
    assert BOS in only_bos.tokens[:, 1:]
    assert not only_bos.kept[only_bos.tokens == BOS].any()


def test_a_tokenizer_without_bos_and_eos_is_refused(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="has neither a BOS nor an EOS token, which begin and separate texts: set one"):
        packed(Changed(tokenizer, bos_token_id=None, eos_token_id=None))


def test_a_row_must_have_room_for_text(tokenizer: Any) -> None:
    with pytest.raises(InputError, match="context_size must leave room for text beside BOS, got 1"):
        packed(tokenizer, context_size=1)


def test_select_takes_rows_in_the_order_given(tokenizer: Any) -> None:
    rows = packed(tokenizer)
    chosen = rows.select(torch.tensor([3, 0]))
    for name in ("tokens", "document", "start", "end", "kept"):
        assert getattr(chosen, name).equal(getattr(rows, name)[[3, 0]])
    assert (chosen.dataset, chosen.texts) == (rows.dataset, rows.texts)


def test_the_fingerprint_is_of_tokens_spans_mask_and_dataset(tokenizer: Any) -> None:
    base = packed(tokenizer).fingerprint()
    assert packed(tokenizer).fingerprint() == base
    changes: list[dict[str, Any]] = [
        {"texts": TEXTS[1:]},
        {"context_size": 7},
        {"prepend_bos": False},
        {"packing": "one_per_document"},
        {"exclude_special_tokens": False},
    ]
    assert len({packed(tokenizer, **change).fingerprint() for change in changes} | {base}) == len(changes) + 1


def test_choice_without_a_seed_is_the_first_ones() -> None:
    assert choice(10, 4, None).tolist() == [0, 1, 2, 3]


def test_choice_with_a_seed_is_random_and_repeatable() -> None:
    drawn = choice(1000, 100, 0)
    assert drawn.equal(choice(1000, 100, 0))
    assert not drawn.equal(choice(1000, 100, 1))
    assert len(set(drawn.tolist())) == 100
    assert drawn.max() > 900
    assert drawn.min() < 100


def test_source_table_has_the_columns_of_sources(tokenizer: Any) -> None:
    rows = packed(tokenizer)
    table = rows.source_table(torch.tensor([2, 0]), torch.tensor([5, 1]))
    for line, (row, position) in zip(table.tolist(), [(2, 5), (0, 1)], strict=True):
        facts = (rows.document, rows.tokens, rows.start, rows.end)
        document, token, start, end = (int(fact[row, position]) for fact in facts)
        assert line == [document, row, position, token, start, end]
