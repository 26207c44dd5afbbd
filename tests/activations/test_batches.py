"""Batches hold all kept activations in order, however they are read, and can be resumed anywhere."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.activations.batches import ActivationLoader
from itda_lightning.activations.harvesting import RowActivations
from itda_lightning.activations.text.rows import Rows
from tests.activations.conftest import HOOK, MakeData


@st.composite
def masked_rows(draw: st.DrawFn) -> Rows:
    """Draw rows with any mask, whose tokens are numbered in order."""
    n, context = draw(st.integers(1, 12)), draw(st.integers(2, 6))
    first = draw(st.integers(0, 1))
    kept = torch.tensor(draw(st.lists(st.booleans(), min_size=n * context, max_size=n * context))).reshape(n, context)
    kept[:, :first] = False
    tokens = torch.arange(n * context).reshape(n, context)
    return Rows(tokens, tokens // 7, tokens % 7, tokens % 7 + 1, kept, first, "d", {}, {})


def fake_loader(rows: Rows, batch_size: int, block_rows: int) -> ActivationLoader:
    """Return activations (token, -token) at one hook point and (token,) at another."""

    def read(start_row: int) -> Iterator[RowActivations]:
        assert start_row % block_rows == 0
        for row in range(start_row, len(rows), block_rows):
            tokens = rows.tokens[row : row + block_rows, rows.first_position :].float()
            yield RowActivations(row, {"a": torch.stack([tokens, -tokens], dim=-1), "b": tokens[..., None]})

    return ActivationLoader(rows, read, batch_size, block_rows)


@given(rows=masked_rows(), batch_size=st.integers(1, 40), block_rows=st.integers(1, 14))
def test_batches_are_all_kept_activations_in_order(rows: Rows, batch_size: int, block_rows: int) -> None:
    loader = fake_loader(rows, batch_size, block_rows)
    batches = list(loader)
    assert len(batches) == len(loader) == -(-rows.n_kept // batch_size)
    assert all(len(batch) == batch_size for batch in batches[:-1])
    assert all(1 <= len(batch) <= batch_size for batch in batches)
    if not batches:
        assert rows.n_kept == 0
        return
    row, position = rows.kept.nonzero(as_tuple=True)
    assert torch.cat([batch.table for batch in batches]).equal(rows.source_table(row, position))
    tokens = rows.tokens[rows.kept].float()
    assert torch.cat([batch.activations["a"] for batch in batches]).equal(torch.stack([tokens, -tokens], dim=1))
    assert torch.cat([batch.activations["b"] for batch in batches]).equal(tokens[:, None])


@given(rows=masked_rows(), batch_size=st.integers(1, 9), block_rows=st.integers(1, 14))
def test_a_loader_goes_on_from_any_batch(rows: Rows, batch_size: int, block_rows: int) -> None:
    whole = list(fake_loader(rows, batch_size, block_rows))
    for position in range(len(whole) + 1):
        loader = fake_loader(rows, batch_size, block_rows)
        loader.load_state_dict({"given": position})
        assert loader.state_dict() == {"given": position}
        rest = list(loader)
        assert [batch.table.tolist() for batch in rest] == [batch.table.tolist() for batch in whole[position:]]
        assert loader.state_dict() == {"given": len(whole)}


@pytest.mark.parametrize("cached", [True, False])
def test_a_resumed_fit_sees_the_same_bits(make_data: MakeData, tmp_path: Any, cached: bool) -> None:
    # Blocks of 24 rows, batches of 100 activations: nothing divides anything.
    settings = {"model_batch_size": 24, "training_tokens": 80 * 16, "cache_dir": str(tmp_path) if cached else None}
    data = make_data(**settings)
    data.prepare_data()
    states, batches = [], []
    loader = data.train_dataloader()
    for batch in loader:
        batches.append(batch)
        states.append(loader.state_dict())
    assert [state["given"] for state in states] == list(range(1, len(loader) + 1))
    # Before, in and after every block, and at the end.
    for given_before in (0, 1, 3, 4, 7, 8, len(batches) - 1, len(batches)):
        state = states[given_before - 1] if given_before else {"given": 0}
        resumed = make_data(**settings)
        resumed.language_model = data.language_model
        loader = resumed.train_dataloader()
        loader.load_state_dict(state)
        rest = list(loader)
        assert len(rest) == len(batches) - given_before
        for ours, theirs in zip(rest, batches[given_before:], strict=True):
            assert ours.table.equal(theirs.table)
            assert ours.activations[HOOK].equal(theirs.activations[HOOK])


def test_a_second_pass_begins_at_the_beginning(make_data: MakeData) -> None:
    loader = make_data().val_dataloader()
    first, second = list(loader), list(loader)
    assert [batch.table.tolist() for batch in first] == [batch.table.tolist() for batch in second]
    loader.load_state_dict({"given": len(first) - 1})
    assert len(list(loader)) == 1
    assert len(list(loader)) == len(first)


def test_the_batch_of_rows_changes_no_source(make_data: MakeData) -> None:
    few = {"training_tokens": 40 * 16}
    reference = list(make_data(**few).train_dataloader())
    for rows_at_once in (1, 5, 1000):
        batches = list(make_data(model_batch_size=rows_at_once, **few).train_dataloader())
        for ours, theirs in zip(batches, reference, strict=True):
            assert ours.table.equal(theirs.table)
            torch.testing.assert_close(ours.activations[HOOK], theirs.activations[HOOK], rtol=1e-4, atol=1e-4)


def test_activations_are_those_of_the_tokens_in_their_sources(make_data: MakeData) -> None:
    # The embedding depends on the token alone.
    data = make_data(hook_names=["hook_embed"])
    embedding = data.language_model.model.W_E
    for batch in data.train_dataloader():
        torch.testing.assert_close(batch.activations["hook_embed"], embedding[batch.table[:, 3]].detach())
