"""Alignment of the tokens of two tokenizers, against its definition and on real prose."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from itda_lightning import InputError
from itda_lightning.across_models.alignment import (
    align,
    common_sources,
    index_among,
    source_spans,
    unit_of_alignment,
)
from itda_lightning.activations.text.rows import Rows, pack
from tests.across_models.retokenised import cut_merges
from tests.across_models.rows import cut, make_rows

lengths = st.lists(st.integers(1, 4), min_size=1, max_size=12)


def ends_of(rows: Rows) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (document, end) -> (row, position) of the last kept token that ends there."""
    places = {}
    for row, position in rows.kept.nonzero().tolist():
        places[int(rows.document[row, position]), int(rows.end[row, position])] = (row, position)
    return places


@given(lengths, lengths, lengths, lengths)
def test_tokens_that_end_at_the_same_character_are_aligned_and_no_others(a, b, c, d) -> None:
    one, two = make_rows(cut(a) + cut(b, 1)), make_rows(cut(c) + cut(d, 1))
    first, second = ends_of(one), ends_of(two)
    common = first.keys() & second.keys()
    if not common:
        with pytest.raises(InputError, match="no token of the 2 models ends at the same character"):
            align([one, two], "characters")
        return
    aligned = align([one, two], "characters")
    assert {(document, end) for document, _, end in aligned.spans.tolist()} == common
    assert len(aligned.spans) == len(common)
    assert torch.equal(aligned.spans[:, 1], aligned.spans[:, 2])
    for (document, _, end), own, other in zip(
        *(part.tolist() for part in (aligned.spans, *aligned.places)), strict=True
    ):
        assert first[document, end] == tuple(own)
        assert second[document, end] == tuple(other)
    assert aligned.places[0].tolist() == sorted(aligned.places[0].tolist()), "in the order of the first"


@given(lengths, st.sets(st.integers(0, 11)))
def test_a_model_is_aligned_with_itself_token_by_token(a, dropped) -> None:
    rows = make_rows([*cut(a), (5, 0, 1)], drop=frozenset(i for i in dropped if i < len(a)))
    for unit in ("tokens", "characters"):
        aligned = align([rows, rows], unit)
        assert torch.equal(aligned.places[0], rows.kept.nonzero())
        assert torch.equal(aligned.places[1], aligned.places[0])
        assert len(common_sources([rows, rows], unit)) == rows.n_kept


def test_of_tokens_that_share_a_character_the_last_is_aligned() -> None:
    shared = make_rows([(0, 0, 1), (0, 1, 2), (0, 1, 2), (0, 2, 3)])
    aligned = align([shared, make_rows(cut([2, 1]))], "characters")
    assert aligned.spans.tolist() == [[0, 2, 2], [0, 3, 3]]
    assert aligned.places[0].tolist() == [[0, 2], [0, 3]]


def test_select_takes_a_subset_of_the_tokens() -> None:
    aligned = align([make_rows(cut([1, 1, 1])), make_rows(cut([1, 1, 1]))], "tokens").select(
        torch.tensor([True, False, True])
    )
    assert aligned.spans.tolist() == [[0, 0, 1], [0, 2, 3]]
    assert [places.tolist() for places in aligned.places] == [[[0, 0], [0, 2]]] * 2


def test_common_sources_are_those_that_all_fits_read() -> None:
    one, two = make_rows(cut([1, 2, 1])), make_rows([*cut([3, 1]), (7, 0, 1)])
    assert common_sources([one, two], "characters").tolist() == [[0, 3, 3], [0, 4, 4]]
    assert common_sources([one, two], "tokens").tolist() == [[0, 3, 4]]
    with pytest.raises(InputError, match="the fits have no token in common"):
        common_sources([one, make_rows([(7, 0, 1)])], "characters")


def test_spans_are_found_among_others() -> None:
    table = torch.tensor([[3, 0, 0, 9, 5, 7], [3, 0, 1, 9, 7, 8]])
    assert source_spans(table, "tokens").tolist() == [[3, 5, 7], [3, 7, 8]]
    ends = source_spans(table, "characters")
    assert ends.tolist() == [[3, 7, 7], [3, 8, 8]]
    assert index_among(ends, torch.tensor([[3, 8, 8], [4, 8, 8], [3, 7, 7]])).tolist() == [1, -1, 0]


def test_the_unit_is_tokens_if_they_are_the_same_and_can_be_required() -> None:
    one, same, other = make_rows(cut([1, 2])), make_rows(cut([1, 2])), make_rows(cut([3]))
    assert unit_of_alignment("auto", [one, same]) == "tokens"
    assert unit_of_alignment("auto", [one, same, other]) == "characters"
    assert unit_of_alignment("characters", [one, same]) == "characters"
    with pytest.raises(
        InputError, match=r"alignment is tokens, but the models read different tokens .* set alignment to"
    ):
        unit_of_alignment("tokens", [one, other])


def test_real_prose_in_two_tokenisations(tiny_model_dir: Path, prose: list[str], tmp_path: Path) -> None:
    directories = tiny_model_dir, cut_merges(tiny_model_dir, tmp_path / "cut", 0.3)
    rows = [
        pack(
            enumerate([*prose[:5], "the naïve café — 漢字 🙂 end"]),
            AutoTokenizer.from_pretrained(directory),
            dataset="prose",
            n_rows=10_000,
            context_size=16,
            packing="concatenate",
            prepend_bos=True,
        )
        for directory in directories
    ]
    aligned = align(rows, "characters")
    first, second = (ends_of(one) for one in rows)
    assert {(document, end) for document, _, end in aligned.spans.tolist()} == first.keys() & second.keys()
    assert len(aligned.spans) > 0.9 * rows[0].n_kept, "shorter tokens end wherever the longer ones do"
    for places, one in zip(aligned.places, rows, strict=True):
        document, end = (part[places[:, 0], places[:, 1]] for part in (one.document, one.end))
        assert torch.equal(torch.stack([document, end], 1), aligned.spans[:, [0, 2]])
