"""The DataModule: bad settings are refused in words, and what it gives is repeatable."""

from typing import Any

import pytest
import torch

from itda_lightning.activations import datamodule, model_and_rows
from itda_lightning.errors import InputError
from tests.activations.conftest import HOOK, MakeData
from tests.tiny_model import LONGEST_CONTEXT


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_batch_size": 0}, r"data.model_batch_size must be at least 1, got 0"),
        ({"batch_size": 0}, r"data.batch_size must be at least 1, got 0"),
        ({"context_size": 3}, r"data.context_size must be at least 4, got 3"),
        (
            {"training_tokens": 15},
            r"data.training_tokens must be at least 16, got 15: that is one row of data.context_size",
        ),
        ({"validation_tokens": 0}, r"data.validation_tokens must be at least 16, got 0: that is one row"),
        ({"holdout_fraction": 0.0}, r"data.holdout_fraction must lie between 0 and 1, got 0.0"),
        ({"holdout_fraction": 1.0}, r"data.holdout_fraction must lie between 0 and 1, got 1.0"),
        ({"packing": "tight"}, r"data.packing must be one of \('concatenate', 'one_per_document'\), got 'tight'"),
        ({"loader": "vllm"}, r"data.loader must be one of \('bridge', .*\), got 'vllm'"),
        ({"cache_dtype": "int8"}, r"data.cache_dtype must be one of \('float32', .*\), got 'int8'"),
        ({"hook_names": []}, r"data.hook_names must name at least one hook point, each once, got \[\]"),
        ({"hook_names": [HOOK, HOOK]}, rf"must name at least one hook point, each once, got \['{HOOK}', '{HOOK}'\]"),
        ({"device": "cuda:99"}, r"the device cuda:99 was asked for but \d+ CUDA devices are available"),
        ({"device": "tpu!"}, r"'tpu!' is not a device"),
        ({"model_dtype": "int4"}, r"model_dtype must be one of \('float32', .*\), got 'int4'"),
    ],
)
def test_settings_out_of_range(make_data: MakeData, unchecked_types, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_data(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"hook_names": ["blocks.1.hook_resid_pots"]},
            r"no hook point .*did you mean one of \['blocks.1.hook_resid_post'",
        ),
        ({"model": "no/where"}, r"cannot load the tokenizer of the language model 'no/where'"),
        ({"model": "bundled:gpt5"}, r"'bundled:gpt5' is not bundled"),
        ({"dataset": "no/where"}, r"cannot load the dataset 'no/where'"),
        ({"text_column": "body"}, r"has no column 'body': its columns are \['text'\]"),
        ({"context_size": 200}, rf"data.context_size is 200 but .* reads at most {LONGEST_CONTEXT} tokens"),
        ({"training_tokens": 10**7}, r"data.training_tokens asks for 10,000,000 tokens"),
    ],
)
def test_what_is_not_there_is_said_when_the_data_is_prepared(
    make_data: MakeData, tmp_path: Any, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make_data(cache_dir=str(tmp_path), **changes).prepare_data()


def test_text_is_checked_before_the_model_is_loaded(make_data: MakeData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_and_rows, "LanguageModel", lambda *arguments: pytest.fail("the model was loaded"))
    make_data().prepare_data()
    make_data().setup()
    with pytest.raises(InputError, match="training_tokens"):
        make_data(training_tokens=10**7).setup()


def test_the_longest_context_is_read(make_data: MakeData) -> None:
    assert len(next(iter(make_data(context_size=LONGEST_CONTEXT, batch_size=127).train_dataloader()))) == 127


def test_streaming_reads_the_same_text(make_data: MakeData) -> None:
    stream, table = make_data(streaming=True, shuffle=False), make_data(shuffle=False)
    assert stream.rows("train").fingerprint() == table.rows("train").fingerprint()
    drawn = make_data(streaming=True).rows("train")
    assert not drawn.tokens.equal(stream.rows("train").tokens)


def test_several_hook_points_share_their_sources(make_data: MakeData) -> None:
    hooks = [HOOK, "blocks.0.mlp.hook_post"]
    data = make_data(hook_names=hooks)
    assert data.widths == {HOOK: 32, "blocks.0.mlp.hook_post": 64}
    alone = make_data().train_dataloader()
    for together, single in zip(data.train_dataloader(), alone, strict=True):
        assert list(together.activations) == hooks
        assert together.table.equal(single.table)
        assert together.activations[HOOK].equal(single.activations[HOOK])
        assert together.activations[hooks[1]].shape == (len(together), 64)


@pytest.fixture
def harvests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of rows of every live harvest from now on."""
    calls: list[int] = []
    harvest = datamodule.harvest_among_ranks

    def counted(language_model: Any, rows: Any, model_batch_size: int, start_row: int) -> Any:
        calls.append(len(rows) - start_row)
        return harvest(language_model, rows, model_batch_size, start_row)

    monkeypatch.setattr(datamodule, "harvest_among_ranks", counted)
    return calls


def test_heldout_activations_are_kept_in_memory(make_data: MakeData, harvests: list[int]) -> None:
    data = make_data()
    first = list(data.val_dataloader())
    second = list(data.val_dataloader())
    assert harvests == [32]
    assert data.harvested_tokens == 512
    for one, other in zip(first, second, strict=True):
        assert one.table.equal(other.table)
        assert one.activations[HOOK].equal(other.activations[HOOK])
    list(data.train_dataloader())
    list(data.train_dataloader())
    assert harvests == [32, 140, 140]


@pytest.mark.parametrize("cached", [True, False])
def test_the_calibration_batch_is_a_repeatable_draw(make_data: MakeData, tmp_path: Any, cached: bool) -> None:
    def draw(tokens: int, **changes: Any):
        data = make_data(cache_dir=str(tmp_path) if cached else None, **changes)
        data.prepare_data()
        return data.calibration_batch(tokens), data

    batch, data = draw(300)
    again, _ = draw(300)
    assert batch.table.equal(again.table)
    assert batch.activations[HOOK].equal(again.activations[HOOK])
    assert 300 <= len(batch) < 315
    assert 1 <= len(draw(1)[0]) <= 15
    assert len(draw(10**9)[0]) == data.rows("train").n_kept

    # Its rows are numbered anew, so they are matched by document and characters.
    keys = [(line[0], *line[3:]) for line in batch.table.tolist()]
    assert keys[:100] != sorted(keys[:100])
    of_all = {
        (line[0], *line[3:]): x
        for part in data.train_dataloader()
        for line, x in zip(part.table.tolist(), part.activations[HOOK], strict=True)
    }
    expected = torch.stack([of_all[key] for key in keys])
    torch.testing.assert_close(batch.activations[HOOK], expected, rtol=1e-4, atol=1e-4)
    other, _ = draw(300, seed=1)
    assert not torch.equal(other.table[:200, [0, 3, 4, 5]], batch.table[:200, [0, 3, 4, 5]])


@pytest.mark.parametrize("tokens", [0, -5])
def test_a_calibration_batch_of_nothing_is_refused(make_data: MakeData, tokens: int) -> None:
    with pytest.raises(InputError, match=f"a calibration batch has at least one token, got {tokens}"):
        make_data().calibration_batch(tokens)


def test_a_small_calibration_batch_is_never_empty(make_data: MakeData) -> None:
    # Rows may keep nothing: the draw goes on until something is kept.
    data = make_data(context_size=4, training_tokens=160, packing="one_per_document")
    rows = data.rows("train")
    rows.kept[:] = False
    rows.kept[7, 2] = True
    for seed in range(5):
        data.hparams["seed"] = seed
        assert len(data.calibration_batch(1)) == 1


def test_heldout_activations_that_no_cache_holds_yet_stay_in_memory(
    make_data: MakeData, harvests: list[int], tmp_path: Any
) -> None:
    data = make_data(cache_dir=str(tmp_path))
    first, second = ([x for x, _ in data.heldout_batches(HOOK)] for _ in range(2))
    assert len(harvests) == 1
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    assert list(tmp_path.iterdir()) == []


def test_heldout_batches_hold_every_usable_activation_with_its_source(make_data: MakeData) -> None:
    data = make_data()
    (whole,) = make_data(batch_size=10**6).val_dataloader()
    zero = data.rows("heldout").n_kept // 2
    for part in data.val_dataloader():  # they stay in memory, so that one can be spoilt
        del part
    row, position = data.rows("heldout").kept.nonzero()[zero].tolist()
    (block,) = [part for part in data._heldout_in_memory if part.first_row == row // 8 * 8]
    block.activations[HOOK][row - block.first_row, position - data.rows("heldout").first_position] = 0
    batches = list(data.heldout_batches(HOOK, d_in=32, description="Held-out"))
    rest = torch.arange(len(whole)) != zero
    assert torch.cat([batch.table for batch in batches]).equal(whole.table[rest])
    torch.testing.assert_close(torch.cat([batch.x for batch in batches]), whole.activations[HOOK][rest])


def test_heldout_batches_of_another_width_are_refused_before_any_is_read(make_data: MakeData) -> None:
    with pytest.raises(InputError, match=rf"the dictionary has d_in 7 but {HOOK} of .* has 32 dimensions"):
        next(make_data().heldout_batches(HOOK, d_in=7))


def test_changed_settings_give_another_datamodule(make_data: MakeData) -> None:
    data = make_data(seed=3)
    other = data.with_settings(batch_size=7)
    assert other.hparams == {**data.hparams, "batch_size": 7}
    assert data.hparams["batch_size"] == 100
    with pytest.raises(InputError, match=r"data.batch_size must be at least 1, got 0"):
        data.with_settings(batch_size=0)


def test_rows_are_read_in_the_order_that_is_given(make_data: MakeData, tmp_path: Any) -> None:
    order = torch.tensor([9, 3, 100, 4])
    data = make_data(cache_dir=str(tmp_path))
    data.prepare_data()
    batches = [list(made.reordered(order, 7)) for made in (data, make_data())]
    for cached, live in zip(*batches, strict=True):
        assert cached.table.equal(live.table)
        torch.testing.assert_close(cached.activations[HOOK], live.activations[HOOK], rtol=1e-4, atol=1e-4)
    tokens = torch.cat([batch.table for batch in batches[0]])[:, 3]
    rows = data.rows("train").select(order)
    assert tokens.equal(rows.tokens[rows.kept])
