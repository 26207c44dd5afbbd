"""Dictionaries on the hub, by the hub's own client and SAELens's loader, against a hub on this machine."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from sae_lens import SAE

import itda_lightning as il
from itda_lightning.dictionary.copies import copied
from itda_lightning.machine.command_line import run_command
from itda_lightning.push import main, push
from tests.runs import HOOK, OTHER_HOOK

NAME = "someone/dictionaries"
pytestmark = pytest.mark.filterwarnings("ignore:.*non-empty model_from_pretrained_kwargs")


@pytest.fixture(scope="module")
def dictionary(tiny_run):
    return il.load_dictionary(tiny_run)


def text_of(files):
    return {name: content.decode() for name, content in files.items() if name.endswith((".json", ".md"))}


def test_what_is_pushed_comes_back_bit_for_bit(hub, dictionary):
    address = dictionary.push_to_hub(NAME)
    assert address == f"{constants.ENDPOINT}/{NAME}"
    assert hub.repositories[NAME]["private"]
    loaded = il.load_dictionary(f"hf://{NAME}")
    assert torch.equal(loaded.atoms, dictionary.atoms)
    assert torch.equal(loaded.bias, dictionary.bias)
    assert loaded.sources.prompts == dictionary.sources.prompts
    assert (loaded.k, loaded.pursuit, loaded.least_gain) == (dictionary.k, dictionary.pursuit, dictionary.least_gain)
    assert torch.equal(il.load_dictionary(f"hf://{NAME}@main", HOOK).atoms, dictionary.atoms)


def test_saelens_loads_the_same_repository(hub, dictionary):
    omp = copied(dictionary, pursuit="omp")
    omp.push_to_hub(NAME, private=False)
    x = torch.randn(9, dictionary.d_in) + dictionary.bias
    sae = SAE.from_pretrained(NAME, f"itda/{HOOK}")
    torch.testing.assert_close(sae.encode(x), omp.encode(x).to_dense(omp.n_atoms))
    plain = SAE.from_pretrained(NAME, f"matching_pursuit/{HOOK}")
    assert type(plain).__name__ == "MatchingPursuitSAE"
    torch.testing.assert_close(plain(x), dictionary(x), rtol=1e-4, atol=1e-4)


def test_a_joint_dictionary_has_an_export_of_each_site(hub):
    x = {"blocks.1.a": torch.randn(500, 8), "blocks.2.a": 3 * torch.randn(500, 12)}
    plain: dict[str, Any] = {"pursuit": "mp", "nonnegative": False, "l0": None, "refine": None, "progress": False}
    joint = il.fit_activations(x, max_atoms=30, k=6, **plain)
    joint.push_to_hub(NAME, private=False)
    names = {name.split("/")[1] for name in hub.repositories[NAME]["files"] if name.startswith("matching_pursuit/")}
    assert names == set(x)
    for site, here in x.items():
        sae = SAE.from_pretrained(NAME, f"matching_pursuit/{site}")
        torch.testing.assert_close(sae(here), joint.view(site)(here), rtol=1e-4, atol=1e-4)
    assert il.load_dictionary(f"hf://{NAME}").sites == joint.sites
    assert "`itda/blocks.1.a`, `itda/blocks.2.a`" in hub.repositories[NAME]["files"]["README.md"].decode()


def test_local_paths_and_on_request_prompts_stay_at_home(hub, dictionary, tiny_run):
    dictionary.push_to_hub(NAME, prompts=False)
    files = hub.repositories[NAME]["files"]
    local = {str(Path(dictionary.metadata[name]).parent) for name in ("model_name", "dataset_path")}
    for name, text in text_of(files).items():
        assert not any(path in text for path in local), name
        for prompt in dictionary.prompts:
            assert prompt.before[-20:] not in text or len(prompt.before) < 8, name
    loaded = il.load_dictionary(f"hf://{NAME}")
    assert loaded.prompts is None
    assert torch.equal(loaded.source_table, dictionary.source_table)
    hashes = [hashlib.sha256((one.before + one.token).encode()).hexdigest()[:32] for one in dictionary.prompts]
    assert loaded.metadata["prompt_hashes"] == hashes
    assert dictionary.prompts is not None
    assert "prompt_hashes" not in dictionary.metadata


def test_the_card_says_what_it_is_and_its_lines_run(hub, dictionary):
    dictionary.push_to_hub(NAME, text_licence="CC-BY-4.0")
    card = hub.repositories[NAME]["files"]["README.md"].decode()
    for part in ("FVU 0.", HOOK, "CC-BY-4.0", "Some labels", dictionary.label(0)[:15], "activations read"):
        assert part in card
    lines = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert len(lines) == 2
    names: dict[str, Any] = {"activations": torch.zeros(2, dictionary.d_in)}
    for block in lines:
        exec(block, names)
    assert names["code"].support.shape == (2, dictionary.k)
    assert names["sae"].cfg.architecture() == "matching_pursuit"


def test_hostile_labels_and_names_stay_text(hub):
    prompts = (il.Prompt("a ", "```\n# <script>", " b"),) * 4
    sources = il.Sources(torch.zeros(4, 6, dtype=torch.int64), "a dataset", prompts)
    metadata = {"hook_name": "blocks.0.hook_resid_post", "model_name": "an | <b>odd</b>\nname"}
    il.Dictionary(torch.eye(4), sources=sources, k=1, metadata=metadata).push_to_hub(NAME)
    card = hub.repositories[NAME]["files"]["README.md"].decode()
    assert "base_model" not in card
    assert card.count("```") == 6
    assert "an \\| &lt;b>odd&lt;/b> name" in card


def test_typical_coefficients_and_the_growth_of_the_error_are_shared_if_activations_are_on_disk(
    hub, tiny_run, data_section, isolated_cache
):
    dictionary = il.load_dictionary(tiny_run)
    dictionary.metadata["data"] = data_section
    for _ in il.ActivationsDataModule(**data_section).val_dataloader():
        break
    dictionary.push_to_hub(NAME)
    loaded = il.load_dictionary(f"hf://{NAME}")
    assert loaded.metadata["typical_coefficients"] == dictionary.metadata["typical_coefficients"]
    assert "As plain matching pursuit: FVU" in hub.repositories[NAME]["files"]["README.md"].decode()


def test_the_command_pushes_all_dictionaries_of_a_run(hub, tiny_run_of_two, capsys):
    push(str(tiny_run_of_two), NAME, private=False)
    out = capsys.readouterr().out
    assert "pushed 2 dictionaries with the prompts of all atoms, text of your corpus: http" in out
    assert "(public)" in out
    assert f'il.load_dictionary("hf://{NAME}")' in out
    with pytest.raises(il.InputError, match="several hook points: give hook_name"):
        il.load_dictionary(f"hf://{NAME}")
    for hook in (HOOK, OTHER_HOOK):
        shared, own = (il.load_dictionary(path, hook).atoms for path in (f"hf://{NAME}", tiny_run_of_two))
        assert torch.equal(shared, own)
    push(str(tiny_run_of_two), "someone/one", prompts=False, hook_name=HOOK)
    assert il.load_dictionary("hf://someone/one").metadata["hook_name"] == HOOK


def test_a_public_repository_gets_nothing_that_was_meant_to_be_private(hub, dictionary):
    hub.repositories[NAME] = {"private": False, "files": {}}
    with pytest.raises(il.InputError, match=f"the repository {NAME} is public and private=True was asked for: make it"):
        dictionary.push_to_hub(NAME)
    assert not hub.repositories[NAME]["files"]
    assert not any("preupload" in line or "/commit/" in line for line in hub.log)


def test_what_the_hub_refuses_is_one_line(hub, dictionary, monkeypatch):
    hub.repositories["someone/other"] = {"private": False, "files": {"README.md": b"nothing"}}
    refused = "there is no such repository or owner, or this account has no rights to it"
    for call, message in (
        (lambda: dictionary.push_to_hub("another/name"), rf"cannot write to another/name: {refused} \(HTTP 403\)"),
        (lambda: dictionary.push_to_hub("a name of words"), "'a name of words' is not the name of a repository"),
        (lambda: il.load_dictionary("hf://someone/nothing"), rf"cannot read someone/nothing: {refused}"),
        (lambda: il.load_dictionary("hf://someone/other"), r"hf://someone/other holds no dictionary"),
        (lambda: il.load_dictionary("hf://someone/other@nowhere"), r"has no such revision: give a branch"),
        (lambda: il.load_dictionary("hf://someone"), r"is no repository of the hub: give hf://owner/name"),
        (lambda: il.load_dictionary("hf://a b/c"), r"'a b/c' is not the name of a repository"),
        (lambda: il.Dictionary(torch.zeros(0, 4), k=1).push_to_hub(NAME), "a dictionary without atoms"),
    ):
        with pytest.raises(il.InputError, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    with pytest.raises(il.InputError, match=rf"{refused} \(HTTP 401\)"):
        dictionary.push_to_hub(NAME)
    assert NAME not in hub.repositories


def test_without_a_network(dictionary, monkeypatch, tmp_path, tiny_run, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for call, message in (
        (
            lambda: dictionary.push_to_hub(NAME),
            f"cannot write to {NAME}: the hub is switched off, unset HF_HUB_OFFLINE",
        ),
        (lambda: il.load_dictionary(f"hf://{NAME}"), f"cannot read {NAME}: .* check the network"),
    ):
        with pytest.raises(il.InputError, match=message):
            call()
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: main(["--dictionary", str(tiny_run), "--repository", NAME]))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: cannot write to someone/dictionaries: the hub is switched off")
    json.dumps(dictionary.metadata)
