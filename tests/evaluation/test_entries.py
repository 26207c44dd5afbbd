"""What can be evaluated: everything that holds a dictionary, and any SAELens SAE, by path or by release."""

import json
import shutil

import pytest
import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import save_export
from tests.runs import HOOK, OTHER_HOOK
from tests.tiny_model import WIDTH

REPO = "someone/dictionaries"


@pytest.fixture
def dictionary(tiny_run) -> Dictionary:
    return load_dictionary(tiny_run)


def assert_is(entry: Entry, dictionary: Dictionary) -> None:
    """The entry gives the dictionary's reconstructions and knows its facts."""
    x = torch.randn(20, WIDTH, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(entry.sae(x), dictionary(x), rtol=1e-4, atol=1e-5)
    assert entry.sae.cfg.metadata.hook_name == HOOK
    assert entry.dictionary is not None
    assert torch.equal(entry.dictionary.atoms, dictionary.atoms)
    assert entry.dictionary.metadata == dictionary.metadata


def test_a_run_a_checkpoint_and_a_saved_dictionary(tiny_run, dictionary, tmp_path):
    saved = tmp_path / "saved"
    dictionary.save(saved)
    for path in (tiny_run, tiny_run / "dictionaries" / HOOK, saved):
        entry = load_entry(str(path))
        assert_is(entry, dictionary)
        assert (entry.name, entry.sae.cfg.architecture()) == (str(path), "itda")
    checkpoint = load_entry(str(tiny_run / "checkpoints" / "last.ckpt"))
    assert checkpoint.dictionary is not None
    assert torch.equal(checkpoint.dictionary.atoms, dictionary.atoms)


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_an_export_of_either_architecture(dictionary, tmp_path, architecture):
    save_export(dictionary, tmp_path / "export", architecture)
    entry = load_entry(str(tmp_path / "export"), HOOK)
    assert_is(entry, dictionary)
    assert entry.sae.cfg.architecture() == architecture


def test_an_sae_that_is_no_dictionary(tmp_path):
    config = TopKSAEConfig(d_in=WIDTH, d_sae=20, k=3)
    config.metadata.hook_name = HOOK
    TopKSAE(config).save_model(tmp_path)
    entry = load_entry(str(tmp_path))
    assert isinstance(entry.sae, TopKSAE)
    assert entry.dictionary is None


@pytest.fixture
def hub(dictionary, tmp_path, monkeypatch):
    """A hub cache that holds one repository with an export."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / f"models--{REPO.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    save_export(dictionary, repository / "snapshots" / commit / "layer_1" / "itda")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.usefixtures("hub")
def test_a_release_in_the_hub_cache(dictionary):
    assert_is(load_entry(f"{REPO}:layer_1/itda"), dictionary)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("reference", [f"{REPO}:layer_9", "nobody/nothing:layer_1", "no-such-release:x", ":", "a:"])
def test_a_release_that_is_not_to_be_had(reference):
    release, sae_id = reference.split(":")
    with pytest.raises(
        InputError,
        match=rf"release '{release}' with sae_id '{sae_id}' cannot be loaded .*check both names, and that the",
    ):
        load_entry(reference)


def test_a_known_release_that_is_not_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"release 'gpt2-small-res-jb' .* its cache holds them"):
        load_entry("gpt2-small-res-jb:blocks.8.hook_resid_pre")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere does not exist: give a path, or release:sae_id"):
        load_entry(str(tmp_path / "nowhere"))


def test_one_of_several_hook_points(tiny_run_of_two):
    assert load_entry(str(tiny_run_of_two), OTHER_HOOK).sae.cfg.metadata.hook_name == OTHER_HOOK
    with pytest.raises(InputError, match="several hook points: give hook_name, one of"):
        load_entry(str(tiny_run_of_two))
    with pytest.raises(InputError, match=r"no dictionary of 'blocks.2"):
        load_entry(str(tiny_run_of_two), "blocks.2.hook_resid_post")


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_the_hook_point_of_another_export_is_refused(dictionary, tmp_path, architecture):
    save_export(dictionary, tmp_path / "export", architecture)
    with pytest.raises(InputError, match=rf"reads the hook point '{HOOK}', not '{OTHER_HOOK}': leave out --hook_name"):
        load_entry(str(tmp_path / "export"), OTHER_HOOK)


def test_what_does_not_say_its_hook_point_is_told(dictionary, tmp_path):
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(tmp_path / "sae")
    Dictionary(dictionary.atoms, k=2).save(tmp_path / "dictionary")
    for name in ("sae", "dictionary"):
        with pytest.raises(InputError, match=f"{name} does not name its hook point: give --hook_name"):
            load_entry(str(tmp_path / name))
        assert load_entry(str(tmp_path / name), HOOK).sae.cfg.metadata.hook_name == HOOK


def test_an_architecture_that_saelens_does_not_know(dictionary, tmp_path):
    save_export(dictionary, tmp_path / "export")
    change(tmp_path / "export", architecture="from_a_package_that_is_not_here")
    with pytest.raises(
        InputError, match=r"export cannot be loaded as a SAELens SAE \(KeyError: 'from_a_package.*package of its arch"
    ):
        load_entry(str(tmp_path / "export"))


def test_a_damaged_export(dictionary, tmp_path):
    save_export(dictionary, tmp_path / "export")
    weights = tmp_path / "export" / "sae_weights.safetensors"
    whole = weights.read_bytes()
    for content in (whole[:-10], whole[:20], b""):
        weights.write_bytes(content)
        with pytest.raises(
            InputError, match=r"export cannot be loaded as a SAELens SAE .*check that its files are complete"
        ):
            load_entry(str(tmp_path / "export"))
    weights.unlink()
    with pytest.raises(InputError, match=r"export cannot be loaded as a SAELens SAE .*files are complete"):
        load_entry(str(tmp_path / "export"))


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_damaged_configuration(dictionary, tmp_path, text):
    save_export(dictionary, tmp_path / "export")
    (tmp_path / "export" / "cfg.json").write_text(text)
    with pytest.raises(InputError, match="export cannot be loaded as a SAELens SAE"):
        load_entry(str(tmp_path / "export"))


def test_a_damaged_dictionary(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "run")
    weights = copy / "dictionaries" / HOOK / "dictionary.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match="does not hold a whole dictionary"):
        load_entry(str(copy))


def change(export, **settings: object) -> None:
    path = export / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
