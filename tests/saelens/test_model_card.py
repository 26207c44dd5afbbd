"""What readers of an export are told: its README.md, its metadata, the card of an upload."""

import json

import pytest
import torch
from huggingface_hub import HfApi

from itda_lightning.saelens import model_card, save_export, to_sae, upload
from tests.processes import run_python


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_an_export_says_what_it_needs_and_its_lines_run(make_dictionary, activations, architecture, tmp_path):
    save_export(make_dictionary(), tmp_path / "exported", architecture)
    card = (tmp_path / "exported" / "README.md").read_text()
    needs = json.loads((tmp_path / "exported" / "cfg.json").read_text())["metadata"].get("needs")
    (lines,) = [part.partition("```")[0] for part in card.split("```python\n")[1:]]
    if architecture == "itda":
        assert needs == {"package": "itda-lightning", "import": "import itda_lightning.saelens"}
        assert "pip install itda-lightning" in card
        assert "KeyError: 'itda'" in card
        assert "Codes are signed" in card
    else:
        assert needs is None
        assert "itda_lightning" not in card
        return
    code = (
        f"import os, torch\nos.chdir({str(tmp_path)!r})\nactivations = torch.ones(2, 16)\n{lines}\nprint(codes.shape)"
    )
    assert run_python("-c", code).stdout == "torch.Size([2, 24])\n"


def test_a_view_with_nonnegative_codes_does_not_say_that_they_are_signed(make_dictionary, tmp_path):
    save_export(make_dictionary(), tmp_path / "view", signed=False)
    assert "signed" not in (tmp_path / "view" / "README.md").read_text()


def test_an_upload_has_a_card_with_the_import(make_dictionary, tmp_path, monkeypatch):
    sent, files = [], {}
    monkeypatch.setattr(
        model_card, "upload_saes_to_huggingface", lambda saes, *args, **options: sent.append((saes, args, options))
    )
    monkeypatch.setattr(HfApi, "file_exists", lambda self, repo, name, revision: name in files)
    monkeypatch.setattr(HfApi, "upload_file", lambda self, **options: files.update({options["path_in_repo"]: options}))
    saes = {"layer_1": to_sae(make_dictionary()), "layer_2": tmp_path / "exported"}
    save_export(make_dictionary(pursuit="omp"), tmp_path / "exported")
    upload(saes, "someone/dictionaries")
    assert sent == [(saes, ("someone/dictionaries", "main"), {"add_default_readme": False})]
    card = files["README.md"]["path_or_fileobj"].decode()
    assert "import itda_lightning.saelens  # registers the architecture\nfrom sae_lens import SAE\n" in card
    assert 'SAE.from_pretrained("someone/dictionaries", "layer_1")' in card
    assert "`layer_2`" in card
    files["README.md"] = {}
    upload(saes, "someone/dictionaries")
    assert files["README.md"] == {}, "a card that is there stays"


def test_the_metadata_say_that_the_model_is_as_loaded_and_saelens_warns(make_dictionary, tmp_path):
    bridge = {"hook_name": "blocks.1.hook_resid_post", "model_name": "tiny", "model_class_name": "HookedTransformer"}
    sae = to_sae(make_dictionary(metadata=bridge))
    assert sae.cfg.metadata.model_from_pretrained_kwargs == {"center_writing_weights": False}
    other = to_sae(make_dictionary(metadata=bridge | {"model_class_name": "AutoModelForCausalLM"}))
    assert other.cfg.metadata.model_from_pretrained_kwargs == {}
    sae.save_model(tmp_path)
    with pytest.warns(UserWarning, match="This SAE has non-empty model_from_pretrained_kwargs"):
        type(sae).load_from_disk(tmp_path)
    assert torch.equal(sae.W_dec, type(sae).load_from_disk(tmp_path).W_dec)
