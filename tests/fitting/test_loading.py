"""``load_dictionary`` on everything that holds a dictionary, and on what does not."""

import json

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from safetensors.torch import load_file, save_file

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Sources
from itda_lightning.errors import InputError
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import save_export


def made(hook_name: str = "blocks.0.hook_resid_post", n: int = 10) -> Dictionary:
    generator = torch.Generator().manual_seed(n)
    atoms = torch.nn.functional.normalize(torch.randn(n, 8, generator=generator), dim=1)
    table = torch.arange(6 * n).reshape(n, 6)
    prompts = tuple(Prompt("a", str(i), "b") for i in range(n))
    return Dictionary(
        atoms,
        torch.ones(8),
        Sources(table, "documents", prompts),
        k=3,
        metadata={"hook_name": hook_name},
        capacity=n + 5,
    )


def assert_same(loaded: Dictionary, original: Dictionary) -> None:
    assert torch.equal(loaded.atoms, original.atoms)
    assert torch.equal(loaded.bias, original.bias)
    assert torch.equal(loaded.source_table, original.source_table)
    assert (loaded.dataset, loaded.k, loaded.metadata) == (original.dataset, original.k, original.metadata)


@pytest.fixture
def run(tmp_path):
    dictionaries = [made("blocks.0.hook_resid_post"), made("blocks.1.hook_resid_post", n=12)]
    for dictionary in dictionaries:
        path = tmp_path / "run" / "dictionaries" / dictionary.metadata["hook_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        dictionary.save(path)
    return tmp_path / "run", dictionaries


@pytest.fixture
def checkpoint(tmp_path):
    dictionaries = [made("blocks.0.hook_resid_post"), made("blocks.1.hook_resid_post", n=12)]
    state = {
        f"dictionaries.{i}.{name}": tensor for i in (0, 1) for name, tensor in dictionaries[i].state_dict().items()
    }
    settings = {
        "hook_names": [dictionary.metadata["hook_name"] for dictionary in dictionaries],
        "dataset": "documents",
        "k": 3,
        "pursuit": "mp",
        "nonnegative": False,
        "metadata": [dictionary.metadata for dictionary in dictionaries],
    }
    path = tmp_path / "step.ckpt"
    SafetensorsCheckpointIO().save_checkpoint({"state_dict": state, "itda": settings}, path)
    return path, dictionaries


def test_a_saved_dictionary(tmp_path):
    made().save(tmp_path / "saved")
    loaded = load_dictionary(str(tmp_path / "saved"))
    assert_same(loaded, made())
    assert loaded.prompts == made().prompts


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_an_export(tmp_path, architecture):
    save_export(made(), tmp_path / "export", architecture)
    loaded = load_dictionary(tmp_path / "export", "blocks.0.hook_resid_post")
    assert_same(loaded, made())
    assert loaded.prompts == made().prompts


def test_a_run_of_several_hook_points(run):
    path, dictionaries = run
    assert_same(load_dictionary(path, "blocks.1.hook_resid_post"), dictionaries[1])
    with pytest.raises(InputError, match=r"several hook points: give hook_name, one of \['blocks.0.*', 'blocks.1"):
        load_dictionary(path)
    with pytest.raises(InputError, match=r"no dictionary of 'blocks.7'"):
        load_dictionary(path, "blocks.7")


def test_a_run_of_one_hook_point_and_one_of_none(tmp_path):
    (tmp_path / "run" / "dictionaries").mkdir(parents=True)
    with pytest.raises(InputError, match=r"no finished dictionary: give one of its checkpoints"):
        load_dictionary(tmp_path / "run")
    made().save(tmp_path / "run" / "dictionaries" / "blocks.0.hook_resid_post")
    assert_same(load_dictionary(tmp_path / "run"), made())


def test_a_checkpoint(checkpoint):
    path, dictionaries = checkpoint
    for dictionary in dictionaries:
        loaded = load_dictionary(path, dictionary.metadata["hook_name"])
        assert_same(loaded, dictionary)
        assert loaded.capacity == loaded.n_atoms
        assert loaded.prompts is None
    with pytest.raises(InputError, match=r"several hook points: give hook_name"):
        load_dictionary(path)


def test_a_checkpoint_of_something_else(tmp_path):
    SafetensorsCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt is not a checkpoint of a dictionary: its keys are"):
        load_dictionary(tmp_path / "other.ckpt")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match=r"checkpoint .*notes.txt is truncated or foreign"):
        load_dictionary(tmp_path / "notes.txt")


def test_a_truncated_checkpoint(checkpoint):
    path, _ = checkpoint
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"truncated"):
        load_dictionary(path, "blocks.0.hook_resid_post")


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match=r"nowhere does not exist: give a run directory"):
        load_dictionary(tmp_path / "nowhere")


def test_a_directory_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"holds no dictionary: expected dictionary.json .*, dictionaries/ .*cfg.json"):
        load_dictionary(tmp_path)


def test_the_dictionary_of_another_hook_point(tmp_path):
    made().save(tmp_path / "saved")
    with pytest.raises(InputError, match=r"holds the dictionary of 'blocks.0.hook_resid_post', not of 'blocks.3'"):
        load_dictionary(tmp_path / "saved", "blocks.3")


def test_an_sae_of_another_architecture(tmp_path):
    StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)).save_model(tmp_path)
    with pytest.raises(InputError, match=r"architecture 'standard', which is not a dictionary: give an export"):
        load_dictionary(tmp_path)


def test_half_a_dictionary_that_a_kill_left_is_none(run):
    path, _ = run
    for name in (".blocks.0.hook_resid_post.1.part", ".x.00000000-1-0000000000000000.part"):
        made("blocks.9").save(path / "dictionaries" / name)
    with pytest.raises(InputError, match=r"give hook_name, one of \['blocks.0[^,]*', 'blocks.1[^,]*'\]$"):
        load_dictionary(path)


@pytest.mark.parametrize("kind", ["directory", "file"])
def test_what_another_user_does_not_share(run, monkeypatch, kind):
    path, _ = run
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(InputError, match=r"may not be read \(permission denied\): its owner can share it by chmod"):
        load_dictionary(path if kind == "directory" else next(path.rglob("*.safetensors")))


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_an_export_that_saelens_saved_again_loads_with_a_warning(tmp_path, architecture, caplog):
    save_export(made(), tmp_path / "export", architecture)
    assert load_dictionary(tmp_path / "export").n_atoms == 10
    assert caplog.messages == []
    again = SAE.load_from_disk(tmp_path / "export")
    again.W_dec.data[0] = torch.nn.functional.one_hot(torch.tensor(3), 8)
    again.cfg.metadata.neuronpedia_id = "somewhere"
    if architecture == "matching_pursuit":
        again.W_dec.data[10:] = -again.W_dec.data[:10]
    again.save_model(tmp_path / "export")
    assert load_dictionary(tmp_path / "export").atoms[0, 3] == 1
    assert caplog.messages == [
        f"{tmp_path / 'export' / 'cfg.json'} has no digest (an earlier version or another program wrote it): damage "
        "would not show"
    ]
    weights = load_file(tmp_path / "export" / "sae_weights.safetensors")
    save_export(made(n=9), tmp_path / "other", architecture)
    save_file(weights, tmp_path / "other" / "sae_weights.safetensors")
    with pytest.raises(InputError, match="export"):
        load_dictionary(tmp_path / "other")


def test_a_truncated_dictionary(tmp_path):
    made().save(tmp_path / "saved")
    weights = tmp_path / "saved" / "dictionary.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"does not hold a whole dictionary.*save it again"):
        load_dictionary(tmp_path / "saved")


@pytest.mark.parametrize("name", ["dictionary.json", "dictionary.safetensors"])
def test_a_dictionary_that_lacks_a_file(tmp_path, name):
    made().save(tmp_path / "saved")
    (tmp_path / "saved" / name).unlink()
    with pytest.raises(InputError, match=r"does not hold a whole dictionary"):
        load_dictionary(tmp_path / "saved")


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_a_truncated_export(tmp_path, architecture):
    save_export(made(), tmp_path / "export", architecture)
    weights = tmp_path / "export" / "sae_weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"does not hold a complete SAE.*export the dictionary again"):
        load_dictionary(tmp_path / "export")
    weights.unlink()
    with pytest.raises(InputError, match=r"does not hold a complete SAE.*FileNotFoundError"):
        load_dictionary(tmp_path / "export")


@pytest.mark.parametrize("text", ["{", "[]", '"itda"', "{}"])
def test_an_export_whose_configuration_is_damaged(tmp_path, text):
    save_export(made(), tmp_path / "export")
    (tmp_path / "export" / "cfg.json").write_text(text)
    with pytest.raises(InputError, match=r"cfg.json is not the configuration of a SAELens SAE"):
        load_dictionary(tmp_path / "export")


@pytest.mark.parametrize(
    "change", [{"d_sae": 11}, {"dtype": "float3"}, {"k": "many"}, {"k": None}, {"metadata": None}], ids=str
)
def test_an_export_whose_configuration_does_not_fit(tmp_path, change):
    save_export(made(), tmp_path / "export")
    path = tmp_path / "export" / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"export"):
        load_dictionary(tmp_path / "export")
