"""The Jaccard index of sets of sources."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning import InputError, Sources, jaccard

places = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), unique=True, min_size=1)


def make(chosen: list[tuple[int, int]], dataset: str = "a", token: int = 7) -> Sources:
    rows = [[document, 0, start, token, start, start + 1] for document, start in chosen]
    return Sources(torch.tensor(rows, dtype=torch.int64).reshape(-1, 6), dataset)


@given(places, places)
def test_it_is_the_share_of_common_sources(a: list[tuple[int, int]], b: list[tuple[int, int]]) -> None:
    assert jaccard(make(a), make(b)) == len(set(a) & set(b)) / len(set(a) | set(b))
    assert jaccard(make(b), make(a)) == jaccard(make(a), make(b))
    assert jaccard(make(a), make(a)) == 1.0


def test_the_tokenizer_does_not_matter_but_the_characters_do() -> None:
    assert jaccard(make([(0, 1)], token=7), make([(0, 1)], token=9)) == 1.0
    assert jaccard(make([(0, 1)]), make([(1, 1)])) == 0.0


def test_different_datasets_have_no_common_sources_to_count() -> None:
    with pytest.raises(
        InputError, match=r"different datasets \(a and b\): fit both dictionaries on the same documents"
    ):
        jaccard(make([(0, 1)]), make([(0, 1)], dataset="b"))


def test_two_empty_sets_are_refused() -> None:
    with pytest.raises(InputError, match="two empty sets of sources is not defined"):
        jaccard(make([]), make([]))
