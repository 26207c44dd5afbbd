"""Every shipped configuration parses and is valid, without a network."""

from pathlib import Path

import pytest
import yaml

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fit import parse
from itda_lightning.module import ITDA

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))


def test_there_are_the_models_of_the_paper_and_of_saebench():
    names = {path.stem for path in CONFIGS}
    assert {"gpt2-small", "pythia-70m", "pythia-160m", "gemma-2-2b", "llama-3.1-8b", "smollm2-135m"} <= names


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
