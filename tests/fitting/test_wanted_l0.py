"""A fit with a wanted mean L0: measured on held-out activations, kept in every file."""

import json

import pytest
import torch

import itda_lightning as il
from itda_lightning.fit import main
from itda_lightning.fitting.checkpoint_io import read_checkpoint
from tests.fits import HOOK, fit_arguments

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture(scope="module")
def runs(tiny_model_dir, prose_file, tmp_path_factory):
    place = tmp_path_factory.mktemp("l0")
    found = {}
    for name, others in {"whole": {}, "wanted": {"model__l0": 2.5}, "given": {"model__least_gain": 0.03}}.items():
        arguments = fit_arguments(tiny_model_dir, prose_file, place, run__directory=place / name, **others)
        found[name] = main(arguments)
    return found


def figures(run):
    return json.loads((run / "metrics.json").read_text())["hook_points"][HOOK]


def test_held_out_codes_have_it(runs):
    whole, wanted = figures(runs["whole"]), figures(runs["wanted"])
    assert whole["l0"] > 3.5
    assert wanted["l0"] == pytest.approx(2.5, abs=0.02)
    assert whole["fvu"] < wanted["fvu"] < 1


def test_the_atoms_are_those_of_a_fit_without(runs):
    atoms = {name: il.load_dictionary(run).atoms for name, run in runs.items()}
    assert torch.equal(atoms["wanted"], atoms["whole"])
    assert torch.equal(atoms["given"], atoms["whole"])


def test_a_given_least_gain_is_kept_and_counts_in_the_figures(runs):
    dictionary = il.load_dictionary(runs["given"])
    assert dictionary.least_gain == 0.03
    assert figures(runs["given"])["l0"] < figures(runs["whole"])["l0"]
    last = runs["given"] / "checkpoints" / "last.ckpt"
    assert il.load_dictionary(last).least_gain == 0.03
    assert il.ITDA.load_from_checkpoint(last).finished_dictionary().least_gain == 0.03
    assert read_checkpoint(last)["itda"]["least_gains"] == [0.03]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"l0": 0.0}, "model.l0 must be above 0 and at most k = 32, which is the largest L0, got 0"),
        ({"l0": 33.0}, "model.l0 must be above 0 and at most k = 32, which is the largest L0, got 33"),
        ({"least_gain": 1.5}, "model.least_gain must lie between 0 and 1, got 1.5"),
        ({"l0": 8.0, "least_gain": 0.1}, "give model.l0 or model.least_gain, not both: got 8 and 0.1"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(il.InputError, match=message):
        il.ITDA(**arguments)


@pytest.mark.parametrize(("others", "l0"), [({"k": 6}, 4.0), ({"k": 32}, 32 * 2 / 3), ({"least_gain": 0.02}, None)])
def test_the_commands_default_follows_k(others, l0):
    assert il.ITDA(**({"l0": "auto"} | others)).hparams["l0"] == l0
