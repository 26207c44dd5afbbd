"""A saved dictionary that the processes of a group hold together, against the same dictionary in one process."""

import pytest
import torch
from torch import distributed

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sharded_dictionary import ShardedDictionary
from itda_lightning.errors import InputError
from tests.dictionary.test_dictionary import activations, sources_of, unit_rows
from tests.process_groups import GroupError, run_in_group


def encoded(path, x):
    dictionary = ShardedDictionary(path)
    code = dictionary.encode(x)
    return len(dictionary.atoms.mine), dictionary.sources, code, dictionary.decode(code), dictionary(x)


def refused(path):
    with pytest.raises(InputError, match="does not hold a whole dictionary"):
        ShardedDictionary(path / "none")
    ShardedDictionary(path)


@pytest.mark.parametrize(("pursuit", "dtype"), [("mp", torch.float32), ("omp", torch.bfloat16)])
def test_codes_and_reconstructions_are_those_of_one_process(tmp_path, pursuit, dtype):
    whole = Dictionary(unit_rows(51, 16, dtype=dtype), torch.randn(16), sources_of(51), k=5, pursuit=pursuit)
    whole.save(tmp_path / "saved")
    x = activations(12, 16)
    expected = whole.encode(x)
    results = run_in_group(2, encoded, tmp_path / "saved", x)
    assert [count for count, *_ in results] == [25, 26]
    for _, sources, code, reconstruction, forward in results:
        assert list(sources) == list(whole.sources)
        assert sources.prompts == whole.sources.prompts
        assert torch.equal(code.support, expected.support)
        torch.testing.assert_close(code.coefficients, expected.coefficients, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(reconstruction, whole.decode(expected), rtol=1e-4, atol=1e-4)
        assert torch.equal(forward, reconstruction)


def test_what_cannot_be_split_is_refused_by_every_process(tmp_path):
    Dictionary(unit_rows(1, 4), k=1).save(tmp_path / "saved")
    with pytest.raises(GroupError, match=r"ValueError: the processes have \[0, 1\] atoms") as raised:
        run_in_group(2, refused, tmp_path / "saved")
    assert set(raised.value.errors) == {0, 1}


def test_the_generalised_pursuit_is_not_shared(tmp_path):
    Dictionary(unit_rows(20, 8), k=3, pursuit="gomp").save(tmp_path / "saved")
    with pytest.raises(InputError, match=r"saved encodes by gomp, which processes do not share: use il\.Dictionary"):
        ShardedDictionary(tmp_path / "saved")


def test_one_process_holds_it_alone(tmp_path):
    whole = Dictionary(unit_rows(20, 8), k=3, nonnegative=True)
    whole.save(tmp_path / "saved")
    alone = ShardedDictionary(tmp_path / "saved", memory_budget=2**20)
    assert not distributed.is_initialized()
    assert alone.sources is None
    assert torch.equal(alone.encode(activations(6, 8)).support, whole.encode(activations(6, 8)).support)
