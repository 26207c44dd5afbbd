"""A cache of latents for delphi: read as its loader reads, it holds the codes of a direct encode."""

import itertools
import json
import tracemalloc
from typing import NamedTuple

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation import delphi_cache
from itda_lightning.evaluation.delphi_cache import write_latent_cache

N, D, K, ROWS, CONTEXT = 11, 8, 3, 6, 5


class Latents(NamedTuple):
    """What delphi's loader makes of a directory: the uses of each latent in the order of the text, and the tokens."""

    uses: dict[int, tuple[np.ndarray, np.ndarray]]
    tokens: np.ndarray
    dtypes: list[tuple[str, str]]


def read_as_delphi_does(directory) -> Latents:
    """Take latents of every file, numbered from the first in its name, sorted by latent and else as they are."""
    edges = sorted(tuple(map(int, path.stem.split("_"))) for path in directory.glob("*.safetensors"))
    assert all(last + 1 == first for (_, last), (first, _) in itertools.pairwise(edges))
    uses, all_tokens, dtypes = {}, [], []
    for first, last in edges:
        content = load_file(directory / f"{first}_{last}.safetensors")
        assert set(content) == {"locations", "activations", "tokens"}
        locations, activations = content["locations"].astype(np.int64), content["activations"]
        dtypes.append((str(content["locations"].dtype), str(activations.dtype)))
        assert locations.shape == (len(activations), 3)
        assert not len(locations) or locations[:, 2].max() <= last - first
        order = np.argsort(locations[:, 2], kind="stable")
        for latent in np.unique(locations[:, 2]):
            own = order[locations[order, 2] == latent]
            uses[first + int(latent)] = locations[own, :2], activations[own]
        assert content["tokens"].dtype == np.int64
        all_tokens.append(content["tokens"])
    assert edges[0][0] == 0
    assert all((one == all_tokens[0]).all() for one in all_tokens)
    # Windows of a context are joined where consecutive uses are in the same one.
    for places, _ in uses.values():
        flat = places[:, 0] * all_tokens[0].shape[1] + places[:, 1]
        assert (np.diff(flat) > 0).all()
    return Latents(uses, all_tokens[0], dtypes)


def example(scale=1.0, **settings):
    """Return a dictionary, activations (rows, context, d), their table and the tokens; position 0 is left out."""
    generator = torch.Generator().manual_seed(3)
    atoms = torch.nn.functional.normalize(torch.randn(N, D, generator=generator), dim=1)
    x = scale * torch.randn(ROWS, CONTEXT, D, generator=generator)
    place = torch.cartesian_prod(torch.arange(ROWS), torch.arange(CONTEXT))
    table = torch.zeros(len(place), 6, dtype=torch.int64)
    table[:, 1:3] = place
    tokens = torch.randint(50_000, (ROWS, CONTEXT), generator=generator)
    return Dictionary(atoms, torch.ones(D), k=K, **settings), x, table[place[:, 1] > 0], tokens


def batches_of(x, table, sizes=(7, 1, 16)):
    flat = x[table[:, 1], table[:, 2]]
    return list(zip(flat.split(list(sizes)), table.split(list(sizes)), strict=True))


@pytest.mark.parametrize("splits", [1, 3, N])
@pytest.mark.parametrize("settings", [{"pursuit": "gomp", "nonnegative": True}, {"pursuit": "mp"}], ids=str)
def test_counts_and_values_are_those_of_a_direct_encode(tmp_path, settings, splits):
    dictionary, x, table, tokens = example(**settings)
    total = write_latent_cache(tmp_path, dictionary, batches_of(x, table), tokens, splits=splits)
    dense = dictionary.encode(x).to_dense(N)
    dense[:, 0] = 0
    read = read_as_delphi_does(tmp_path)
    assert len(list(tmp_path.iterdir())) == splits  # and nothing else
    assert (read.tokens == tokens.numpy()).all()
    assert total == int((dense != 0).sum()) == sum(len(values) for _, values in read.uses.values())
    for latent in range(N):
        places = dense[..., latent].nonzero()
        if not len(places):
            assert latent not in read.uses
            continue
        got, values = read.uses[latent]
        assert (got == places.numpy()).all()
        assert (values == dense[places[:, 0], places[:, 1], latent].half().numpy()).all()
    assert set(read.dtypes) == {("uint16", "float16")}


def test_a_view_has_two_latents_per_atom(tmp_path):
    dictionary, x, table, tokens = example(pursuit="omp")
    write_latent_cache(tmp_path, dictionary, batches_of(x, table), tokens, splits=4, signed=False)
    dense = dictionary.encode(x).to_dense(N)
    dense[:, 0] = 0
    both = torch.cat([dense.clamp(min=0), (-dense).clamp(min=0)], dim=-1)
    read = read_as_delphi_does(tmp_path)
    assert {latent: len(values) for latent, (_, values) in read.uses.items()} == {
        latent: count for latent, count in enumerate((both > 0).sum((0, 1)).tolist()) if count
    }
    assert all((values >= 0).all() for _, values in read.uses.values())


def test_cosines_are_those_of_detections(tmp_path):
    dictionary, x, table, tokens = example()
    write_latent_cache(tmp_path, dictionary, batches_of(x, table), tokens, strength="cosine")
    cosine = dictionary.detect(x)
    for latent, (places, values) in read_as_delphi_does(tmp_path).uses.items():
        expected = cosine[places[:, 0], places[:, 1], latent]
        np.testing.assert_allclose(values.astype(np.float32), expected.numpy(), rtol=1e-3)


def test_what_does_not_fit_half_precision_or_16_bits_is_written_wider(tmp_path):
    dictionary, x, table, tokens = example(1e5)
    table[:, 1] += 70_000
    flat = x[table[:, 1] - 70_000, table[:, 2]]
    write_latent_cache(tmp_path, dictionary, [(flat, table)], tokens, splits=1)
    read = read_as_delphi_does(tmp_path)
    assert read.dtypes == [("uint32", "float32")]
    assert min(places[:, 0].min() for places, _ in read.uses.values()) >= 70_000


def test_latents_that_nothing_uses_leave_an_empty_file(tmp_path):
    dictionary, _, _, tokens = example(nonnegative=True)
    write_latent_cache(tmp_path, dictionary, [], tokens, splits=2)
    assert read_as_delphi_does(tmp_path).uses == {}


@pytest.mark.parametrize("splits", [0, N + 1])
def test_more_files_than_latents_are_refused(tmp_path, splits):
    dictionary, _, _, tokens = example()
    with pytest.raises(InputError, match=rf"11 latents do not fill {splits} files: set splits from 1 to 11"):
        write_latent_cache(tmp_path, dictionary, [], tokens, splits=splits)


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(delphi_cache, "USES_AT_ONCE", 2**10)
    dictionary, x, table, tokens = example()
    x, table = x.repeat(1, 1, 1).reshape(-1, D)[:1].repeat(2000, 1), table[:1].repeat(2000, 1)

    def peak(n_batches):
        def batches():
            for number in range(n_batches):
                table[:, 1] = number
                yield x, table

        place = tmp_path / str(n_batches)
        place.mkdir()
        tracemalloc.start()
        write_latent_cache(place, dictionary, batches(), tokens, splits=2)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few = peak(2)
    assert peak(30) < 1.5 * few


def test_numbers_of_the_config(tmp_path):
    delphi_cache.write_config(tmp_path, {"n_splits": 3})
    assert json.loads((tmp_path / "config.json").read_text()) == {"n_splits": 3}
