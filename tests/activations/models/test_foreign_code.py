"""Code that comes with a model never runs, whatever loads it, and nobody is asked."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import dynamic_module_utils

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.models.skeleton import config_of
from itda_lightning.errors import InputError

NEVER_RUN = r"^the language model '.*own' comes with code of its own, which is never run: give a model whose arch"


@pytest.fixture(params=["all of it", "only the model"])
def own(request, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model whose files ask for code beside them, which writes a file when it is run; the user answers yes."""
    path = shutil.copytree(tiny_model_dir, tmp_path / "own")
    (path / "code.py").write_text(
        f"open({str(tmp_path / 'was_run')!r}, 'w').close()\nclass Config: ...\nModel = Config\n"
    )
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "code.Model"}
    if request.param == "all of it":
        config |= {"model_type": "its_own"}
        config["auto_map"] |= {"AutoConfig": "code.Config", "AutoModel": "code.Model"}
    else:
        config |= {"model_type": "vit"}  # an architecture that has no language model
    (path / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("builtins.input", lambda *_: "yes")
    return path


@pytest.mark.parametrize("loader", ["bridge", "huggingface", "hooked_transformer"])
def test_it_is_refused_and_not_run(own: Path, tmp_path: Path, loader: str) -> None:
    before = dynamic_module_utils.get_class_in_module, dynamic_module_utils.TIME_OUT_REMOTE_CODE
    with pytest.raises(
        InputError, match=NEVER_RUN if loader != "hooked_transformer" else "^cannot load the language m"
    ):
        LanguageModel(LanguageModelName(str(own), loader=loader), [])
    assert not (tmp_path / "was_run").exists()
    assert before == (dynamic_module_utils.get_class_in_module, dynamic_module_utils.TIME_OUT_REMOTE_CODE)


def test_nor_is_its_configuration(own: Path, tmp_path: Path) -> None:
    if json.loads((own / "config.json").read_text())["model_type"] == "its_own":
        with pytest.raises(InputError, match=NEVER_RUN):
            config_of(own)
    assert not (tmp_path / "was_run").exists()
