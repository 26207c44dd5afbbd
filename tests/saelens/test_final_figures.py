"""Mean L0 and dead latents of exports, under the names by which SAELens's own trainer writes them."""

import json

import pytest
import torch
import yaml
from sae_lens import SAE

from itda_lightning import ActivationsDataModule
from itda_lightning.dictionary.copies import as_matching_pursuit, copied
from itda_lightning.dictionary.facts import codes_of
from itda_lightning.export import export
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import amortised, to_sae
from tests.runs import HOOK

FIGURES = ("l0", "num_dead_features")
SEEN = 4096


def figures(sae):
    return {name: sae.cfg.metadata[name] for name in FIGURES if name in sae.cfg.metadata}


def counted(sae, x):
    """Count what fires, from SAELens's own codes."""
    fires = sae.encode(x) != 0
    dead = int((~fires.any(0)).sum())
    return {"l0": pytest.approx(float(fires.sum(1).double().mean())), "num_dead_features": dead}


def fit_facts(dictionary, **last):
    validation = {"n_atoms": 24, "l0": 4.5, "dead_atoms": 3} | last
    return {"validation": [{}, validation], "codes": codes_of(dictionary), "activations_seen": SEEN}


@pytest.mark.parametrize(
    ("architecture", "pursuit", "nonnegative", "signed"),
    [
        ("itda", "mp", False, True),
        ("itda", "omp", False, False),
        ("itda", "gomp", True, True),
        ("matching_pursuit", "mp", False, True),
        ("matching_pursuit", "mp", True, True),
    ],
)
def test_they_are_counted_on_given_activations(
    make_dictionary, activations, architecture, pursuit, nonnegative, signed
):
    dictionary = make_dictionary(pursuit=pursuit, nonnegative=nonnegative, k=3)
    for heldout in (activations, iter(activations[:10].split(4))):
        sae = to_sae(dictionary, architecture, signed=signed, heldout=heldout)
        expected = counted(sae, activations if heldout is activations else activations[:10])
        assert figures(sae) == expected
    assert expected["num_dead_features"] > 0


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_those_of_a_linear_encoder_are_its_own(make_dictionary, activations, architecture, monkeypatch):
    monkeypatch.setattr(amortised, "STEPS", 20)
    train = 3 * torch.randn(200, 16)
    sae = to_sae(make_dictionary(), architecture, train, heldout=activations)
    assert figures(sae) == counted(sae, activations)
    assert figures(to_sae(make_dictionary(), architecture, train)) == {}


def test_without_activations_they_are_those_of_the_last_validation(make_dictionary):
    dictionary = make_dictionary(nonnegative=True)
    dictionary.metadata |= fit_facts(dictionary)
    for architecture in ("itda", "matching_pursuit"):
        metadata = to_sae(dictionary, architecture).cfg.metadata
        assert (metadata["l0"], metadata["num_dead_features"], metadata["training_tokens"]) == (4.5, 3, SEEN)
    refined = copied(dictionary, grown=dictionary.atoms)
    refined.metadata |= {"refinement": {"validation": {"n_atoms": 24, "l0": 2, "dead_atoms": 0}}}
    assert figures(to_sae(refined)) == {"l0": 2.0, "num_dead_features": 0}


@pytest.mark.parametrize(
    "changed",
    [
        lambda one: copied(one, k=4),
        as_matching_pursuit,
        lambda one: copied(one, least_gain=0.1),
        lambda one: with_facts(one, codes=None),
        lambda one: with_facts(one, validation=[]),
        lambda one: with_facts(one, validation=[{"n_atoms": 23, "l0": 4.5, "dead_atoms": 3}]),
        lambda one: with_facts(one, validation=[{"n_atoms": 24, "l0": None, "dead_atoms": 3}]),
        lambda one: with_facts(one, refinement={"unexplained": [0.3]}),  # not finished
    ],
)
def test_what_is_not_known_is_absent(make_dictionary, changed):
    dictionary = make_dictionary(pursuit="omp")
    dictionary.metadata |= fit_facts(dictionary)
    sae = to_sae(changed(dictionary))
    assert figures(sae) == {}
    assert not {*FIGURES, "training_tokens"} & set(to_sae(make_dictionary()).cfg.metadata.keys())


def test_other_latents_than_the_validated_ones_have_other_figures(make_dictionary):
    dictionary = make_dictionary()
    dictionary.metadata |= fit_facts(dictionary)
    assert figures(to_sae(dictionary, signed=False)) == figures(to_sae(dictionary, "matching_pursuit")) == {}


def with_facts(dictionary, **facts):
    return copied(dictionary, metadata=dictionary.metadata | facts)


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit", "jumprelu", "topk"])
def test_the_command_writes_them(tiny_run, data_section, tmp_path, architecture, monkeypatch):
    monkeypatch.setattr(amortised, "STEPS", 20)
    config = tmp_path / "cached.yaml"
    config.write_text(yaml.safe_dump({"data": data_section}))
    export(str(tiny_run), str(tmp_path / "sae"), architecture, data_config=str(config), tokens=1024)
    written = json.loads((tmp_path / "sae" / "cfg.json").read_text())["metadata"]
    own = load_dictionary(tiny_run)
    assert written["training_tokens"] == own.metadata["activations_seen"] > 0
    x = torch.cat([x for x, _ in ActivationsDataModule(**data_section).heldout_batches(HOOK)])
    expected = counted(SAE.load_from_disk(tmp_path / "sae"), x)
    assert {name: written[name] for name in FIGURES} == expected


def test_the_command_measures_plain_matching_pursuit(tiny_run, tmp_path):
    copied(load_dictionary(tiny_run), pursuit="omp").save(tmp_path / "omp")
    export(str(tmp_path / "omp"), str(tmp_path / "plain"), "matching_pursuit", pursuit="mp")
    written = json.loads((tmp_path / "plain" / "cfg.json").read_text())["metadata"]
    assert 3 < written["l0"] <= 4
    assert isinstance(written["num_dead_features"], int)
