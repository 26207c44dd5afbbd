"""Sources: their table, their sets, and the text that they name."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.dictionary.sources import COLUMNS, Prompt, Source, Sources
from itda_lightning.errors import InputError

DOCUMENTS = ["The first document.", "Ein zweiter: naïve ☃ 😀 text.", "third"]


def sources_of(*rows: tuple[int, ...], dataset: str = "data", prompts=None) -> Sources:
    return Sources(torch.tensor(rows, dtype=torch.int64).reshape(-1, 6), dataset, prompts)


tables = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 99),
        st.integers(0, 3),
        st.integers(3, 5),
    ),
    max_size=8,
)


def test_a_source_is_read_by_index_and_in_order():
    rows = [(0, 7, 3, 42, 4, 9), (2, 8, 1, 43, 0, 5)]
    sources = sources_of(*rows)
    assert len(sources) == 2
    assert Source._fields == COLUMNS
    assert sources[0] == Source(document=0, row=7, position=3, token=42, start=4, end=9)
    assert sources[-1] == list(sources)[1] == Source(*rows[1])
    assert all(type(value) is int for value in sources[0])
    with pytest.raises(IndexError):
        sources[2]


def test_no_sources_at_all():
    empty = sources_of()
    assert len(empty) == 0
    assert list(empty) == []
    assert empty.keys() == set()


@given(tables, tables)
def test_set_operations_are_those_of_document_and_span(a, b):
    first, second = sources_of(*a), sources_of(*b)
    expected_first = {(row[0], row[4], row[5]) for row in a}
    expected_second = {(row[0], row[4], row[5]) for row in b}
    assert first.keys() == expected_first
    assert first.intersection(second) == second.intersection(first) == expected_first & expected_second
    assert first.union(second) == second.union(first) == expected_first | expected_second


def test_the_same_place_of_another_tokenisation_is_the_same_source():
    one, other = sources_of((1, 0, 3, 42, 4, 9)), sources_of((1, 5, 7, 99, 4, 9))
    assert one.intersection(other) == {(1, 4, 9)}


def test_unknown_sources_have_nothing_in_common():
    unknown = sources_of((-1, -1, -1, -1, -1, -1), (1, 0, 0, 0, 2, 3))
    assert unknown.keys() == {(1, 2, 3)}


@pytest.mark.parametrize("operation", ["intersection", "union"])
def test_set_operations_across_datasets_are_refused(operation):
    with pytest.raises(
        InputError,
        match=r"^the sources come from different datasets \(one and two\): fit both dictionaries on the same "
        r"documents$",
    ):
        getattr(sources_of(dataset="one"), operation)(sources_of(dataset="two"))


@pytest.mark.parametrize("documents", [DOCUMENTS, dict(enumerate(DOCUMENTS))], ids=["list", "mapping"])
@given(data=st.data())
def test_recovered_text_is_the_document_cut_at_the_span(documents, data):
    document = data.draw(st.integers(0, len(DOCUMENTS) - 1))
    text = DOCUMENTS[document]
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    prompt = sources_of((document, 0, 0, 0, start, end)).recover(0, documents)
    assert prompt.before + prompt.token + prompt.after == text
    assert (len(prompt.before), len(prompt.token)) == (start, end - start)


@pytest.mark.parametrize("documents", [DOCUMENTS, dict(enumerate(DOCUMENTS))], ids=["list", "mapping"])
def test_recovery_from_other_documents_is_refused(documents):
    sources = sources_of((3, 0, 0, 0, 0, 1), (2, 0, 0, 0, 3, 6), (-1, 0, 0, 0, 0, 1))
    with pytest.raises(InputError, match=r"^document 3 is not among the documents given: give those of dataset data$"):
        sources.recover(0, documents)
    with pytest.raises(
        InputError,
        match=r"^document 2 has 5 characters but the source's span is 3\.\.6: these are not the documents of "
        r"dataset data$",
    ):
        sources.recover(1, documents)
    with pytest.raises(InputError, match=r"^the document of source 2 is unknown, so its text cannot be recovered$"):
        sources.recover(2, documents)


@pytest.mark.parametrize(
    ("table", "told"),
    [
        (torch.zeros(2, 6), r"torch\.float32 of shape \(2, 6\)"),
        (torch.zeros(2, 6, dtype=torch.int32), r"torch\.int32 of shape \(2, 6\)"),
        (torch.zeros(2, 5, dtype=torch.int64), r"torch\.int64 of shape \(2, 5\)"),
        (torch.zeros(6, dtype=torch.int64), r"torch\.int64 of shape \(6,\)"),
    ],
)
def test_a_table_of_another_form_is_refused(table, told):
    # Under pytest the annotation would refuse it first.
    sources = object.__new__(Sources)
    vars(sources).update(table=table, dataset="data", prompts=None)
    with pytest.raises(
        InputError, match=rf"^a table of sources is int64 of shape \(n, 6\) with columns .*, got {told}$"
    ):
        sources.__post_init__()


def test_one_prompt_a_source():
    with pytest.raises(InputError, match=r"^1 prompts for 2 sources: give one prompt per source$"):
        sources_of((0,) * 6, (1,) * 6, prompts=(Prompt("a", "b", "c"),))


def test_sources_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        sources_of().dataset = "other"  # type: ignore[misc]  # the error is the point
