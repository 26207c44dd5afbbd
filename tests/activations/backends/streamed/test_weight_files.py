"""Weight files are read as safetensors reads them; missing and damaged files are named."""

import json
import os
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from itda_lightning.activations.backends.streamed.weight_files import WeightFiles
from itda_lightning.errors import InputError


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    """Two shards and their index."""
    save_file(
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "one.safetensors"
    )
    save_file({"c": torch.tensor(3, dtype=torch.int64)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]),
)
def test_tensors_are_read_as_safetensors_reads_them(tmp_path_factory, shapes, dtype) -> None:
    directory = tmp_path_factory.mktemp("weights")
    written = {f"{i}": torch.randint(0, 2, shape).to(dtype) for i, shape in enumerate(shapes)}
    save_file(written, directory / "model.safetensors")
    files = WeightFiles(directory)
    read = files.read(list(written))
    expected = load_file(directory / "model.safetensors")
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype
        assert read[name].equal(tensor)
    assert files.size_bytes(list(written)) == sum(tensor.nbytes for tensor in expected.values())


def test_memory_that_is_used_again(sharded: Path) -> None:
    files, names = WeightFiles(sharded), ["b", "c", "a"]
    memory = torch.full((files.memory_bytes(names),), 255, dtype=torch.uint8)
    for _ in range(2):
        read = files.read(names, memory)
        assert {name: tensor.tolist() for name, tensor in read.items()} == {
            "a": [[0, 1, 2], [3, 4, 5]],
            "b": [1] * 4,
            "c": 3,
        }
        assert [tensor.data_ptr() - memory.data_ptr() for tensor in read.values()] == [0, 64, 128]


def test_shards(sharded: Path) -> None:
    files = WeightFiles(sharded)
    assert files.read(["a", "c"])["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert files.read(["b"])["b"].dtype == torch.bfloat16
    assert files.tensors["c"].file.name == "two.safetensors"


def test_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_text("")
    with pytest.raises(
        InputError, match=rf"{tmp_path} holds neither model.safetensors.index.json nor .*backend=in_mem"
    ):
        WeightFiles(tmp_path)


def test_a_missing_shard(sharded: Path) -> None:
    (sharded / "two.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"lacks 1 of the 2 shards that its index names: two.safetensors; download them"
    ):
        WeightFiles(sharded)


@pytest.mark.parametrize("content", ["no JSON", "[]", "{}", '{"weight_map": 3}'])
def test_a_damaged_index(sharded: Path, content: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match=r"index.json is not an index of safetensors shards \(.*download it again"):
        WeightFiles(sharded)


@pytest.mark.parametrize("left", [0, 4, 40, -1])
def test_a_truncated_shard(sharded: Path, left: int) -> None:
    file = sharded / "one.safetensors"
    os.truncate(file, left if left >= 0 else file.stat().st_size + left)
    with pytest.raises(InputError, match=rf"the weight file {file} is truncated or damaged \(.*\): download it again"):
        WeightFiles(sharded)


@pytest.mark.parametrize(
    "header",
    [b"no JSON ", b"[1, 2]  ", b'{"a": {}}', b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}'],
)
def test_a_damaged_header(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(
        InputError, match=r"model.safetensors is truncated or damaged \(its header is no safetensors hea"
    ):
        WeightFiles(tmp_path)


def test_weights_of_fewer_bits(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2, dtype=torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="holds a as F8_E4M3, which is not streamed: dequantise the model to bfloat16"):
        WeightFiles(tmp_path)


def test_a_shard_that_changes_while_it_is_in_use(sharded: Path, tmp_path: Path) -> None:
    files, file = WeightFiles(sharded), sharded / "one.safetensors"
    os.truncate(file, file.stat().st_size - 4)
    with pytest.raises(InputError, match=rf"the weight file {file} is truncated or damaged \(it ends within [ab]\)"):
        files.read(["a", "b"])


def test_bytes_that_are_not_those_of_the_first_reading(sharded: Path, tmp_path: Path) -> None:
    digests, file = tmp_path / "digests.json", sharded / "one.safetensors"
    first = WeightFiles(sharded)
    first.check_by(digests)
    first.read(["a"])
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    content[first.tensors["a"].start] ^= 1
    file.write_bytes(bytes(content))
    later = WeightFiles(sharded)
    later.check_by(digests)
    later.read(["c"])
    with pytest.raises(InputError, match=rf"the weight file {file} .*a has changed since it was first read"):
        later.read(["a"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 1}', "\xff"])
def test_a_damaged_record_of_the_first_reading(sharded: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "digests.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"^[^\n]*digests\.json[^\n]*remove it, and check the files of the model$"):
        WeightFiles(sharded).check_by(tmp_path / "digests.json")
