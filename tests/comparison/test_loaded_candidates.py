"""Entries that are loaded: what they are, what is known of their cost, and what tells them apart."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import ActivationsDataModule
from itda_lightning.comparison.candidates import Candidate, identity_of, make_candidate
from itda_lightning.comparison.comparison_settings import EntrySettings
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.comparisons import TRAIN
from tests.runs import HOOK, K
from tests.tiny_model import WIDTH


@pytest.fixture(scope="module")
def data(data_section) -> ActivationsDataModule:
    return ActivationsDataModule(**data_section)


@pytest.fixture(scope="module")
def places(on_disk, data, tmp_path_factory) -> dict[str, Path]:
    """Everything that can be loaded, by name."""
    root = tmp_path_factory.mktemp("places")
    load_dictionary(on_disk["run"]).save(root / "saved")
    settings = TrainingSettings(**(TRAIN | {"architecture": "matching_pursuit"}))
    train_sae(settings, data, HOOK, root / "trained matching pursuit")
    config = TopKSAEConfig(d_in=WIDTH, d_sae=20, k=7)
    config.metadata.hook_name = HOOK
    TopKSAE(config).save_model(root / "foreign")
    return on_disk | {path.name: path for path in root.iterdir()}


def loaded(path: Path, data: ActivationsDataModule) -> Candidate:
    entry = EntrySettings("an entry", load=str(path))
    return make_candidate(entry, data, HOOK, Path("/nowhere"), identity_of(entry, data))


@pytest.mark.parametrize("name", ["run", "saved", "itda", "matching_pursuit"])
def test_an_itda_is_one_however_it_is_stored(name, places, data):
    candidate, dictionary = loaded(places[name], data), load_dictionary(places["run"])
    assert candidate.kind == "itda"
    assert torch.equal(candidate.entry.dictionary.atoms, dictionary.atoms)
    assert candidate.cost.parameters == (dictionary.n_atoms + 1) * WIDTH
    seen = dictionary.metadata["activations_seen"]
    assert (candidate.cost.activations_seen, candidate.cost.activations_read) == (seen, seen)
    validated = [(point["seen"], point["fvu"]) for point in dictionary.metadata["validation"]]
    assert list(candidate.curve) == validated != []
    words = {"k": str(K), "pursuit": "mp", "nonnegative": "False", "centred": "True", "least_gain": "0.0"}
    assert candidate.settings == words


@pytest.mark.parametrize("name", ["trained", "trained matching pursuit"])
def test_an_sae_that_was_trained_here_keeps_what_it_cost(name, places, data):
    candidate = loaded(places[name], data)
    facts = json.loads((places[name] / "cfg.json").read_text())["metadata"]["training"]
    assert candidate.kind == "sae"
    assert candidate.settings["k"] == "3"
    assert candidate.cost.seconds == facts["seconds"] > 0
    assert (candidate.cost.activations_seen, candidate.cost.activations_read) == (1024, 1024)
    assert candidate.cost.peak_bytes == facts["peak_bytes"]
    assert candidate.curve == tuple(map(tuple, facts["curve"])) != ()


def test_of_a_foreign_sae_little_is_known(places, data):
    candidate = loaded(places["foreign"], data)
    assert (candidate.kind, candidate.settings, candidate.curve) == ("sae", {"k": "7"}, ())
    assert (candidate.cost.seconds, candidate.cost.activations_seen, candidate.cost.peak_bytes) == (None, None, None)
    assert candidate.cost.parameters == 2 * 20 * WIDTH + 20 + WIDTH
    assert candidate.cost.disk_bytes == sum(path.stat().st_size for path in places["foreign"].iterdir())


def test_of_a_run_its_dictionaries_count(places, data, tmp_path):
    run = shutil.copytree(places["run"], tmp_path / "moved")
    identity = identity_of(EntrySettings("a", load=str(places["run"])), data)
    size = loaded(run, data).cost.disk_bytes
    assert size == sum(path.stat().st_size for path in (run / "dictionaries" / HOOK).iterdir())
    (run / "fit.log").write_text("a note")
    assert identity_of(EntrySettings("b", load=str(run)), data) == identity
    index = run / "dictionaries" / HOOK / "dictionary.json"
    index.write_text(index.read_text().replace('"k": 4', '"k": 3'))
    assert identity_of(EntrySettings("b", load=str(run)), data) != identity


@pytest.mark.parametrize("name", ["saved", "trained"])
def test_a_file_that_changed_is_another_entry(name, places, data, tmp_path):
    copy = shutil.copytree(places[name], tmp_path / "copy")
    entry = EntrySettings("a", load=str(copy))
    identity = identity_of(EntrySettings("b", load=str(places[name])), data)
    assert identity_of(entry, data) == identity
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert identity_of(entry, data) != identity


def test_a_release_is_identified_by_its_name(data):
    one, other = (identity_of(EntrySettings("a", load=f"release:sae_{i}"), data) for i in (1, 2))
    assert one != other


def test_what_a_run_took_is_read_from_its_metrics(places, data, tmp_path):
    run = shutil.copytree(places["run"], tmp_path / "run")
    seconds = {"all": 9.0, "harvest": 2.5, "growth": 4.0, "refinement": 1.0}
    for changes, expected in (
        ({}, 6.5),
        ({"harvest": 0.0}, 9.0),
        ({"growth": 0.0}, None),  # of a fit that was resumed when it had grown
        ({"growth_activations": 30}, None),  # or before
        ({"growth_activations": 50}, 6.5),
        ({"all": "long"}, None),
    ):
        content = json.dumps({"hook_points": {HOOK: {"activations_seen": 50}}, "seconds": seconds | changes})
        (run / "metrics.json").write_text(content)
        identities = [identity_of(EntrySettings("a", load=str(place)), data) for place in (run, places["run"])]
        assert identities[0] != identities[1]
        for place in (run, run / "dictionaries" / HOOK):
            assert loaded(place, data).cost.seconds == expected
    for content in (json.dumps({"hook_points": {HOOK: {}, "b": {}}, "seconds": seconds}), "[]", "{", "[" * 5000):
        (run / "metrics.json").write_text(content)
        assert loaded(run, data).cost.seconds is None
    assert loaded(places["run"], data).cost.seconds > 0


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("sae", {"training_tokens": 5000}, 5000),
        ("2000", {"training_tokens": 5000}, 2000),
        ("final_5001", {"training_tokens": 5000}, 5000),
        ("sae", {"training_tokens": "many"}, None),
        ("sae", [], None),
    ],
)
def test_the_tokens_of_an_sae_are_read_from_its_runner(places, data, tmp_path, name, content, seen):
    sae = shutil.copytree(places["foreign"], tmp_path / name)
    (sae / "runner_cfg.json").write_text(json.dumps(content))
    cost = loaded(sae, data).cost
    assert (cost.activations_seen, cost.activations_read, cost.seconds) == (seen, None, None)


def test_the_tokens_of_saes_that_were_trained_together_are_read_above_them(places, data, tmp_path):
    sae = shutil.copytree(places["foreign"], tmp_path / "3000" / "layer 1")
    alone = identity_of(EntrySettings("a", load=str(sae)), data)
    runner = tmp_path / "3000" / "runner_cfg.json"
    for saes, seen in (({"layer 1": {}, "layer 2": {}}, 3000), ({"layer 2": {}}, None), (3, None), (None, None)):
        runner.write_text(json.dumps({"training_tokens": 5000, "saes": saes}))
        assert loaded(sae, data).cost.activations_seen == seen
        assert (identity_of(EntrySettings("a", load=str(sae)), data) == alone) is (seen is None)


@pytest.mark.parametrize("name", ["training_tokens", "total_training_tokens"])
def test_the_tokens_of_an_sae_of_an_earlier_saelens_are_read_from_its_configuration(places, data, tmp_path, name):
    sae = shutil.copytree(places["foreign"], tmp_path / "sae")
    config = json.loads((sae / "cfg.json").read_text())
    (sae / "cfg.json").write_text(json.dumps(config | {name: 300_000_000}))
    assert loaded(sae, data).cost.activations_seen == 300_000_000
    (sae / "runner_cfg.json").write_text(json.dumps({"training_tokens": 5000}))
    assert loaded(sae, data).cost.activations_seen == 5000


@pytest.mark.parametrize("training", ["long ago", {"settings": "none"}, ["a"]])
def test_what_others_record_of_a_training_is_left_alone(places, data, tmp_path, training):
    sae = shutil.copytree(places["foreign"], tmp_path / "sae")
    config = json.loads((sae / "cfg.json").read_text())
    config["metadata"]["training"] = training
    (sae / "cfg.json").write_text(json.dumps(config))
    candidate = loaded(sae, data)
    assert (candidate.kind, candidate.cost.seconds, candidate.decay_from) == ("sae", None, None)
