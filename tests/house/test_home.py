"""No file that is written tells the user's home directory, and all that name it by ``~`` are read wherever it is."""

import shutil
from pathlib import Path

import pytest

from itda_lightning import fit, page
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from tests.runs import HOOK, fit_tiny

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:The number of training batches")


def test_a_run_and_its_page_tell_no_home_directory_and_go_on_in_another(
    tiny_model_dir: Path, prose_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "somebody"
    shutil.copytree(tiny_model_dir, home / "models" / "tiny")
    shutil.copy(prose_file, home / "prose.jsonl")
    monkeypatch.setenv("HOME", str(home))
    run = fit_tiny(home / "run", home / "models" / "tiny", home / "prose.jsonl", cache_dir=home / "cache")
    page.main([f"--dictionary={run}"])
    written = [file for file in sorted(run.rglob("*")) if file.is_file()]
    assert [file for file in written if b"somebody" in file.read_bytes()] == []
    tell = {file.name for file in written if b"~/" in file.read_bytes()}
    assert tell >= {"config.yaml", "hparams.yaml", "fit.log", "last.ckpt", "dictionary.json", f"page-{HOOK}.html"}
    # Everything is found again in the home directory of somebody else.
    monkeypatch.setenv("HOME", str(home.rename(tmp_path / "other")))
    moved = tmp_path / "other" / "run"
    data = data_for(load_dictionary(moved), None, HOOK)
    assert data.stored("heldout") is not None
    assert data.model_name.name == "~/models/tiny"
    resumed = fit.main(["--config", str(moved / "config.yaml"), "--ckpt_path", "last"])
    assert resumed == tmp_path / "other" / "run-resumed-001"
    names = [path / "dictionaries" / HOOK / "dictionary.safetensors" for path in (moved, resumed)]
    assert names[0].read_bytes() == names[1].read_bytes()
