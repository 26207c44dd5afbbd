"""Runs of the fit command on the tiny model, shared by the tests of the other commands."""

from pathlib import Path

import pytest

from itda_lightning import fit
from tests.fits import AS_GROWN

HOOK, OTHER_HOOK = "blocks.1.hook_resid_post", "blocks.0.hook_resid_post"
LAYER = 1
K, MAX_ATOMS, CONTEXT, VALIDATION_ROWS = 4, 60, 16, 32


def fit_tiny(directory: Path, model: Path, dataset: Path, *hook_names: str, **data: object) -> Path:
    """Fit for about two seconds and return the run directory."""
    settings = {
        "model": model,
        "hook_names": f"[{','.join(hook_names or (HOOK,))}]",
        "dataset": dataset,
        "device": "cpu",
        "context_size": CONTEXT,
        "training_tokens": 120 * CONTEXT,
        "validation_tokens": VALIDATION_ROWS * CONTEXT,
        "batch_size": 256,
    } | data
    arguments = AS_GROWN | {
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "model.max_atoms": MAX_ATOMS,
        "model.k": K,
        "model.pursuit": "mp",  # which both exports can hold
        "model.threshold": 0.557,
        "model.energy_exponent": 0.85,
        "model.calibration_tokens": 512,
        "run.directory": directory,
        "run.validate_every": 2,
        **{f"data.{name}": value for name, value in settings.items()},
    }
    return fit.main([f"--{name}={value}" for name, value in arguments.items()])


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, prose_file: Path) -> Path:
    """A finished run of one hook point. Not to be written to: tests share it."""
    return fit_tiny(tmp_path_factory.mktemp("runs") / "tiny", tiny_model_dir, prose_file)


@pytest.fixture(scope="session")
def tiny_run_of_two(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path, prose_file: Path) -> Path:
    """A finished run of two hook points. Not to be written to: tests share it."""
    directory = tmp_path_factory.mktemp("runs") / "two"
    return fit_tiny(directory, tiny_model_dir, prose_file, OTHER_HOOK, HOOK)
