import itertools

import pytest
import torch

from itda_lightning.activations.shuffled import TrainingRows, shuffled_batches
from itda_lightning.errors import InputError

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    """Harvested once for all tests with the same settings; none changes what is there."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def make_cached(make_data, cache_dir):
    """140 training rows of 16 tokens in 3 files, on disk."""

    def make(**changes):
        return make_data(**({"cache_dir": str(cache_dir)} | changes))

    return make


def lines(x):
    """The activations as sorted lists, to compare what is there whatever the order."""
    return sorted(map(tuple, x.tolist()))


def of_fit(data):
    return torch.cat([batch.activations[HOOK] for batch in data.train_dataloader()])


@pytest.mark.parametrize("buffer_rows", [1000, 64, 100], ids=["all fit", "one block at a time", "less than two blocks"])
def test_an_epoch_is_what_a_fit_reads(make_cached, buffer_rows):
    data = make_cached()
    data.rows("train").kept[5:9, 3:] = False
    rows = TrainingRows(data, HOOK)
    expected = of_fit(data)
    assert rows.n_kept == len(expected) == 140 * 15 - 4 * 13  # position 0 is left out as well
    batch_size = 50
    batches = shuffled_batches(rows, batch_size, 0, buffer_rows * 15 * 32 * 4)
    seen = torch.cat(list(itertools.islice(batches, -(-3 * len(expected) // batch_size))))
    epochs = [seen[i * len(expected) : (i + 1) * len(expected)] for i in range(3)]
    for epoch in epochs:
        assert lines(epoch) == lines(expected)
    assert not torch.equal(epochs[0], expected)
    assert not torch.equal(epochs[0], epochs[1])


def test_padding_is_left_out(make_cached):
    """Check that padding (EOS) is left out by its mask: EOS as a token may be kept."""
    data = make_cached(
        packing="one_per_document",
        context_size=120,
        training_tokens=30 * 120,
        validation_tokens=2 * 120,
        exclude_special_tokens=False,
        text_column="text",
    )
    rows = TrainingRows(data, HOOK)
    assert lines(rows.read(0, 30)) == lines(of_fit(data))


def test_batches_are_whole_even_where_they_are_longer_than_an_epoch(make_cached):
    rows = TrainingRows(make_cached(), HOOK, tokens=64)
    (batch,) = itertools.islice(shuffled_batches(rows, 3 * rows.n_kept + 1, 0, 2**20), 1)
    assert len(batch) == 3 * rows.n_kept + 1
    assert len(set(lines(batch))) == len(set(lines(rows.read(0, 4))))


def test_the_seed_decides_the_order(make_cached):
    rows = TrainingRows(make_cached(), HOOK)
    first, again, other = (
        torch.cat(list(itertools.islice(shuffled_batches(rows, 100, seed, 2**24), 3))) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_only_the_first_tokens_are_read(make_cached):
    data = make_cached()
    rows = TrainingRows(data, HOOK, tokens=70 * 16 + 5)
    assert rows.n_rows == 70
    kept = data.rows("train").kept[:70].sum()
    assert rows.n_kept == kept
    expected = of_fit(data)[:kept]
    seen = torch.cat(list(itertools.islice(shuffled_batches(rows, int(kept), 0, 2**24), 2)))
    assert lines(seen[:kept]) == lines(seen[kept:]) == lines(expected)
    assert set(lines(rows.sample(100))) <= set(lines(expected))


def test_a_sample_is_of_about_the_size_asked_for(make_cached):
    rows = TrainingRows(make_cached(), HOOK)
    assert 100 <= len(rows.sample(100)) < 116
    assert len(rows.sample(10**9)) == rows.n_kept


def test_a_sample_is_the_one_that_an_itda_takes_its_mean_of(make_cached):
    data = make_cached(seed=3)
    expected = data.calibration_batch(200).activations[HOOK]
    assert torch.equal(TrainingRows(data, HOOK).sample(200), expected)


def test_activations_at_places_come_in_their_order(make_cached):
    data = make_cached()
    rows = TrainingRows(data, HOOK)
    places = rows.kept.nonzero()[torch.tensor([1500, 3, 700, 4])]
    assert torch.equal(rows.at(places), of_fit(data)[[1500, 3, 700, 4]])


def test_what_is_not_usable_is_skipped(make_cached, monkeypatch):
    rows = TrainingRows(make_cached(), HOOK)
    whole = rows.read(0, 64)
    cached = rows.stored.read

    def damaged(start, stop):
        part = cached(start, stop)
        part.activations[HOOK][0, :2] = torch.tensor([[torch.nan], [0.0]])
        return part

    monkeypatch.setattr(rows.stored, "read", damaged)
    assert len(rows.read(0, 64)) == len(whole) - 2

    def all_zero(start, stop):
        part = cached(start, stop)
        part.activations[HOOK].zero_()
        return part

    monkeypatch.setattr(rows.stored, "read", all_zero)
    monkeypatch.setattr(rows.stored, "read_at", lambda index: {HOOK: torch.zeros(len(index), 15, 32)})
    with pytest.raises(InputError, match="holds a usable activation"):
        next(shuffled_batches(rows, 10, 0, 2**24))
    with pytest.raises(InputError, match="zero or not finite"):
        rows.sample(10)


@pytest.mark.parametrize(
    ("changes", "hook_name", "tokens", "told"),
    [
        ({"cache_dir": None}, HOOK, None, r"set data\.cache_dir"),
        ({}, "blocks.0.hook_resid_post", None, r"'blocks\.0\.hook_resid_post': give one of \['blocks\.1"),
        ({}, HOOK, 15, "tokens must lie between 16 and 2,240, got 15: from one row to all"),
        ({}, HOOK, 140 * 16 + 1, "between 16 and 2,240, got 2,241"),
    ],
)
def test_bad_requests_are_explained_before_the_model_runs(make_cached, monkeypatch, changes, hook_name, tokens, told):
    data = make_cached(**changes)
    monkeypatch.setattr(data, "prepare_data", pytest.fail)
    with pytest.raises(InputError, match=told):
        TrainingRows(data, hook_name, tokens)


def test_a_buffer_too_small_is_explained_at_once(make_cached):
    rows = TrainingRows(make_cached(), HOOK)
    with pytest.raises(InputError, match="give at least 122,880"):
        shuffled_batches(rows, 10, 0, 1000)


def test_a_batch_that_never_fills_is_refused(make_cached):
    rows = TrainingRows(make_cached(), HOOK)
    with pytest.raises(InputError, match=r"batch_size must lie between 1 and [\d,]+, got 1,099,511,627,776: there are"):
        shuffled_batches(rows, 2**40, 0, 2**20)


def test_rows_of_the_cache_beyond_those_of_the_fit_are_not_read(make_cached):
    make_cached().prepare_data()
    data = make_cached(first_tokens=70 * 16)
    rows = TrainingRows(data, HOOK)
    assert len(make_cached().cache("train").rows) == 140
    assert rows.n_rows == 70
    assert torch.equal(torch.cat([rows.read(*block) for block in rows.blocks]), of_fit(data))
    assert torch.equal(rows.sample(200), data.calibration_batch(200).activations[HOOK])
    with pytest.raises(InputError, match="between 16 and 1,120, got 1,136"):
        TrainingRows(data, HOOK, tokens=71 * 16)
