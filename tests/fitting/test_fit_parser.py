"""The help of the fit command, and options that stand for lists of one."""

import pytest
import torch
from lightning.pytorch.accelerators import CPUAccelerator

from itda_lightning import fit
from itda_lightning.fitting import trainer_options

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


def test_the_help_begins_with_the_options_of_this_package(capsys):
    with pytest.raises(SystemExit):
        fit.main(["--help"])
    text = capsys.readouterr().out
    options = (
        "\n  --model.max_atoms",
        "\n  --data.model",
        "\n  --run.directory",
        "\n  --refine",
        "\n  --trainer.devices",
    )
    places = [text.index(option) for option in options]
    assert places == sorted(places)
    assert places[0] < 700


@pytest.mark.parametrize("value", ["blocks.1.hook_resid_post", "[blocks.1.hook_resid_post]"])
def test_one_hook_point_needs_no_brackets(value):
    cli = fit.parse(["--data.model=m", f"--data.hook_names={value}", "--data.dataset=d", "--trainer.accelerator=cpu"])
    assert cli.datamodule.hook_names == cli.datamodule.hparams["hook_names"] == ["blocks.1.hook_resid_post"]


@pytest.mark.parametrize(("available", "accelerator"), [(True, "cuda"), (False, "cpu")])
def test_the_accelerator_is_a_cuda_device_if_there_is_one(monkeypatch, available, accelerator):
    """Never one of Apple's, which has no float64, as Lightning's own "auto" would take."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert trainer_options.accelerator_of("auto") == accelerator
    assert trainer_options.accelerator_of("tpu") == "tpu"


@pytest.mark.parametrize("given", [[], ["--trainer.accelerator=auto"]])
def test_auto_is_the_default_and_what_configs_keep(monkeypatch, given):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cli = fit.parse(["--data.model=m", "--data.hook_names=h", "--data.dataset=d", *given])
    assert isinstance(cli.trainer.accelerator, CPUAccelerator)
    assert cli.config.trainer.accelerator == "auto"
