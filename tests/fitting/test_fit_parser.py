"""The help of the fit command, and options that stand for lists of one."""

import pytest

from itda_lightning import fit

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
