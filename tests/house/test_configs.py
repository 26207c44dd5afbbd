"""Every shipped configuration parses and is valid, without a network."""

from pathlib import Path

import pytest
import yaml

from itda_lightning import compare
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fit import parse
from itda_lightning.fitting.module import ITDA

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

DIRECTORY = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(DIRECTORY.glob("*.yaml"))
COMPARISONS = sorted((DIRECTORY / "compare").glob("*.yaml"))


def test_there_are_the_models_of_the_paper_and_of_saebench():
    names = {path.stem for path in CONFIGS}
    assert {"gpt2-small", "pythia-70m", "pythia-160m", "gemma-2-2b", "llama-3.1-8b", "smollm2-135m", "paper"} <= names


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_parses_and_makes_its_parts(path):
    cli = parse(["--config", str(path), "--trainer.accelerator", "cpu"])
    written = yaml.safe_load(path.read_text())
    assert isinstance(cli.model, ITDA)
    assert isinstance(cli.datamodule, ActivationsDataModule)
    for group, part in (("model", cli.model), ("data", cli.datamodule)):
        for key, value in written[group].items():
            assert part.hparams[key] == value, f"{group}.{key}"
    assert cli.config_init["run"].name == path.stem
    assert cli.config_init["ckpt_path"] is None
    assert cli.model.hparams["max_atoms"] < cli.datamodule.hparams["training_tokens"]
    assert path.read_text().startswith("# "), "says what it is for"


def test_there_is_a_comparison_on_the_bundled_model():
    assert "smollm2-135m" in {path.stem for path in COMPARISONS}


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: path.stem)
def test_a_comparison_parses_and_makes_its_parts(path):
    settings, data = compare.parse(["--config", str(path)])
    written = yaml.safe_load(path.read_text())
    for key, value in written["data"].items():
        assert data.hparams[key] == value, f"data.{key}"
    for name, value in written.items():
        assert name in ("data", "entries") or getattr(settings, name) == value, name
    assert len(settings.entries) == len(written["entries"]) > 1
    for entry, asked in zip(settings.entries, written["entries"], strict=True):
        assert entry.name == asked["name"]
        options = asked[entry.way]
        assert entry.chosen == options or all(getattr(entry.chosen, name) == options[name] for name in options)
    kinds = {entry.way for entry in settings.entries}
    assert kinds & {"fit", "load"}
    assert kinds & {"train", "load"}
    assert len(data.hook_names) == 1
    assert settings.directory.startswith("runs/")
    assert path.read_text().startswith("# "), "says what it is for"
