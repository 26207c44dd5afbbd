"""Checkpoints as safetensors files: what goes in comes out, and a file is whole or not there."""

import errno
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from itda_lightning.errors import InputError
from itda_lightning.fitting import checkpoint_io as checkpoints
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO, read_checkpoint

plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=8)
nested = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


def round_trip(tmp_path, content):
    SafetensorsCheckpointIO().save_checkpoint(content, tmp_path / "a" / "step.ckpt")
    return SafetensorsCheckpointIO().load_checkpoint(tmp_path / "a" / "step.ckpt")


@given(content=st.dictionaries(st.text(max_size=6), nested, max_size=4))
def test_any_json_comes_back(tmp_path_factory, content):
    assert round_trip(tmp_path_factory.mktemp("json"), content) == content


def test_tensors_come_back_wherever_they_stand(tmp_path):
    shared = torch.randn(3, 4)
    content = {
        "state_dict": {"a.b": shared, "a/b": shared.T, "empty": torch.zeros(0, 5), "scalar": torch.tensor(7)},
        "list": [1, {"deep": [torch.tensor([True, False]), None]}, (torch.ones(2, dtype=torch.bfloat16),)],
        "same": shared,
        "slice": torch.arange(100)[::7],
    }
    loaded = round_trip(tmp_path, content)
    assert torch.equal(loaded["state_dict"]["a.b"], shared)
    assert torch.equal(loaded["state_dict"]["a/b"], shared.T)
    assert loaded["state_dict"]["empty"].shape == (0, 5)
    assert loaded["state_dict"]["scalar"].shape == ()
    assert loaded["state_dict"]["scalar"].dtype == torch.int64
    assert loaded["list"][1]["deep"][0].tolist() == [True, False]
    assert loaded["list"][2][0].dtype == torch.bfloat16
    assert torch.equal(loaded["same"], shared)
    assert loaded["slice"].tolist() == list(range(0, 100, 7))


def test_tensors_whose_names_would_be_the_same_are_kept_apart(tmp_path):
    content = {"a": {"b": torch.tensor(1)}, "a/b": torch.tensor(2), "": {"a": {"b": torch.tensor(3)}}}
    loaded = round_trip(tmp_path, content)
    assert [int(value) for value in (loaded["a"]["b"], loaded["a/b"], loaded[""]["a"]["b"])] == [1, 2, 3]


def test_numbers_keep_all_their_digits(tmp_path):
    values = [0.1 + 0.2, 5e-324, 2**62 + 1, math.inf, -math.inf, -0.0]
    assert list(map(str, round_trip(tmp_path, {"values": values})["values"])) == list(map(str, values))


def test_paths_become_text_and_tuples_lists(tmp_path):
    assert round_trip(tmp_path, {"path": tmp_path, "pair": (1, 2)}) == {"path": str(tmp_path), "pair": [1, 2]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": {"b": [1, {2, 3}]}}, r"checkpoint entry '/a/b/1' is a set, which is neither JSON nor a tensor"),
        ({"f": print}, r"checkpoint entry '/f' is a builtin_function_or_method, which"),
        ({"a": {"__tensor__": "x"}}, r"checkpoint entry '/a' has the key '__tensor__', which marks a tensor"),
        ({"a": {1: 2, "b": 3}}, r"checkpoint entry '/a' has keys that are not strings: \['1', 'b'\]"),
    ],
)
def test_what_cannot_be_stored_is_named(tmp_path, content, message):
    with pytest.raises(TypeError, match=message):
        SafetensorsCheckpointIO().save_checkpoint(content, tmp_path / "step.ckpt")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_checkpoint_that_was_there(tmp_path, monkeypatch, error):
    path = tmp_path / "last.ckpt"
    SafetensorsCheckpointIO().save_checkpoint({"step": 1}, path)

    def full(tensors, temporary, header):
        temporary.write_bytes(b"half")
        raise OSError(error, "full")

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(InputError, match=r"no space left while writing .*last.ckpt: free some space"):
        SafetensorsCheckpointIO().save_checkpoint({"step": 2}, path)
    assert read_checkpoint(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_every_cut_is_noticed(tmp_path):
    path = tmp_path / "last.ckpt"
    SafetensorsCheckpointIO().save_checkpoint({"x": torch.arange(50), "y": "text"}, path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"the checkpoint .*last.ckpt is truncated or foreign \(.+\): take an"):
            read_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"there is no checkpoint .*none.ckpt: give the path of a file in a run's"):
        read_checkpoint(tmp_path / "none.ckpt")
    with pytest.raises(InputError, match=r"the checkpoint .* is truncated or foreign"):
        read_checkpoint(tmp_path)
    save_file({"x": torch.ones(1)}, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"weights.safetensors is not a checkpoint of this package: give one of a run"):
        read_checkpoint(tmp_path / "weights.safetensors")
    save_file({"x": torch.ones(1)}, tmp_path / "odd.safetensors", {checkpoints.HEADER: '{"x": {"__tensor__": "y"}}'})
    with pytest.raises(InputError, match=r"odd.safetensors is truncated or foreign \(.*y.*\)"):
        read_checkpoint(tmp_path / "odd.safetensors")


def test_removing(tmp_path):
    SafetensorsCheckpointIO().save_checkpoint({}, tmp_path / "last.ckpt")
    SafetensorsCheckpointIO().remove_checkpoint(tmp_path / "last.ckpt")
    SafetensorsCheckpointIO().remove_checkpoint(tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []
