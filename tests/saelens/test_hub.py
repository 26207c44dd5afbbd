"""Through the Hugging Face hub: SAELens's upload into a local hub cache, its download from there, offline."""

import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from sae_lens.training.upload_saes_to_huggingface import upload_saes_to_huggingface

from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import to_sae
from tests.processes import run_python
from tests.saelens.conftest import assert_same

REPO, REVISION = "someone/dictionaries", "0123456789abcdef0123456789abcdef01234567"

DOWNLOAD = f"""
import sys
from huggingface_hub import constants

constants.HF_HUB_CACHE = sys.argv[2]
import itda_lightning.saelens
from itda_lightning.saelens import from_sae
from sae_lens import SAE

for name in ("itda", "matching_pursuit"):
    from_sae(SAE.from_pretrained({REPO!r}, "layer_1/" + name)).save(sys.argv[1] + "/" + name)
"""


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A hub cache of one repository, which uploads go to."""
    cache = tmp_path / "hub"
    repository = cache / f"models--{REPO.replace('/', '--')}"

    def upload_folder(self, *, folder_path, path_in_repo, repo_id, revision, allow_patterns, **_):
        assert (repo_id, revision) == (REPO, "main")
        (repository / "refs").mkdir(parents=True, exist_ok=True)
        (repository / "refs" / "main").write_text(REVISION)
        target = repository / "snapshots" / REVISION / path_in_repo
        target.mkdir(parents=True)
        for file in Path(folder_path).iterdir():
            if any(fnmatch(file.name, pattern) for pattern in allow_patterns):
                shutil.copy(file, target / file.name)

    monkeypatch.setattr(HfApi, "repo_info", lambda self, repo_id: None)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return cache


def test_upload_and_download_keep_everything(make_dictionary, hub, tmp_path):
    dictionary = make_dictionary()
    saes = {f"layer_1/{name}": to_sae(dictionary, name) for name in ("itda", "matching_pursuit")}
    upload_saes_to_huggingface(saes, REPO, show_progress=False, add_default_readme=False)
    done = run_python("-c", DOWNLOAD, tmp_path, hub)
    if done.returncode:
        pytest.fail(done.stderr)
    for name in ("itda", "matching_pursuit"):
        loaded = load_dictionary(tmp_path / name)
        assert_same(loaded, dictionary)
        assert torch.equal(loaded.encode(3 * dictionary.atoms).support, dictionary.encode(3 * dictionary.atoms).support)
