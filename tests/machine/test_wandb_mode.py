"""What the environment says of Weights & Biases is heeded."""

from pathlib import Path

import pytest

from itda_lightning.machine.wandb_mode import wandb_mode


@pytest.mark.parametrize(("name", "value"), [("WANDB_MODE", "disabled"), ("WANDB_DISABLED", "true")])
def test_disabled_is_no_run_at_all(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert wandb_mode(tmp_path, otherwise="metrics go to CSV only") is None


@pytest.mark.parametrize("value", ["offline", "dryrun"])
def test_offline_is_a_run_on_this_machine(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", value)
    assert wandb_mode(tmp_path, otherwise="") == "offline"
