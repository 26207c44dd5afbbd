"""A streamed harvest that was killed goes on where it was and ends with the same files."""

from collections import Counter
from pathlib import Path

import pytest
from torch import Tensor

from itda_lightning.activations.backends.streamed.streamed_decoder import StreamedDecoder
from itda_lightning.errors import InputError
from tests.activations.backends.streaming import backend, count_batches, files, killed_at
from tests.activations.conftest import MakeData

# 70 training rows in slabs of 24 and 8 held-out ones: 4 slabs, of 10 batches of at most 8 rows.
SETTINGS = {
    "hook_names": ["blocks.0.hook_resid_post", "blocks.2.hook_resid_post"],
    "training_tokens": 70 * 16,
    "validation_tokens": 8 * 16,
}
SLAB_ROWS, SLABS, BATCHES, LAYERS = 24, 4, 10, 3
MOMENTS = [
    "weights 1",  # the embeddings are read
    "slab 2",  # the second slab of embeddings is half written
    "slab 5",  # the first slab after layer 0
    "between 6",  # a slab after layer 2 stands beside that after layer 1
    "slab 16",  # the last slab after the last layer
    "cache 2",  # the second file of the cache is half written
    "end",  # only the hidden states are left to remove
]


@pytest.fixture(scope="module")
def whole(tiny_model_dir: Path, prose_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The caches of a harvest that was never killed."""
    return {}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_resumed_is_as_if_never_killed(
    make_data: MakeData, tmp_path: Path, moment: str, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    if not whole:
        backend(make_data(cache_dir=str(tmp_path / "whole"), **SETTINGS), SLAB_ROWS).fill()
        whole |= files(tmp_path / "whole")
    data, computed = make_data(cache_dir=str(tmp_path / "killed"), **SETTINGS), tmp_path / "computed"
    killed_at(moment, dict(data.hparams), SLAB_ROWS, computed)
    monkeypatch.setattr(StreamedDecoder, "forward_layer", StreamedDecoder.forward_layer)
    count_batches(StreamedDecoder, computed)
    backend(data, SLAB_ROWS).fill()
    assert files(tmp_path / "killed") == whole
    batches = Counter(computed.read_text().split())
    assert set(batches) == {"0", "1", "2"}
    assert all(count >= BATCHES for count in batches.values())
    assert sum(batches.values()) <= LAYERS * BATCHES + SLAB_ROWS // 8, "more than a slab was computed again"


def test_of_two_caches_the_finished_one_is_not_computed_again(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(cache_dir=str(tmp_path), **SETTINGS)
    assert backend(data).fill() == 78 * 16
    before = files(tmp_path)
    cache = data.cache("heldout")
    assert cache is not None
    for file in cache.path.iterdir():
        file.unlink()
    assert backend(data).fill() == 8 * 16
    assert files(tmp_path) == before


def test_two_harvests_of_the_same_caches_at_once_are_one_too_many(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refusals = []
    forward_layer = StreamedDecoder.forward_layer

    def meanwhile(self: StreamedDecoder, index: int, hidden: Tensor) -> Tensor:
        monkeypatch.setattr(StreamedDecoder, "forward_layer", forward_layer)
        with pytest.raises(
            InputError, match=r"another process is filling the same caches.*: wait until it is done"
        ) as told:
            backend(make_data(cache_dir=str(tmp_path), **SETTINGS)).fill()
        refusals.append(told)
        return forward_layer(self, index, hidden)

    monkeypatch.setattr(StreamedDecoder, "forward_layer", meanwhile)
    assert backend(make_data(cache_dir=str(tmp_path), **SETTINGS)).fill() == 78 * 16
    assert len(refusals) == 1
