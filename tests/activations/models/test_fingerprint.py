"""The fingerprint of a large local model is taken once and remembered while its files are as they were."""

import os
from pathlib import Path

import pytest
import xxhash

from itda_lightning.activations.models import model_name
from itda_lightning.activations.models.model_name import directory_fingerprint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "config.json").write_text("{}")
    (path / "README.md").write_text("not of the model")
    return path


def test_it_is_a_hash_of_names_and_contents(model: Path, isolated_cache: Path) -> None:
    expected = xxhash.xxh3_128_hexdigest(b"config.json{}model.safetensorsweights")
    assert directory_fingerprint(model) == expected
    assert not isolated_cache.exists(), "a small model is read every time"


def test_that_of_a_large_model_is_remembered(
    model: Path, isolated_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_name, "REMEMBERED_BYTES", 1)
    file = model / "model.safetensors"
    first, times = directory_fingerprint(model), file.stat()
    file.write_bytes(b"damaged")  # by the disk: neither size nor time changes
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert directory_fingerprint(model) == first
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns + 1))
    assert directory_fingerprint(model) != first
    (remembered,) = (isolated_cache / "fingerprints").iterdir()
    remembered.write_text("not JSON")
    assert directory_fingerprint(model) != first
