"""Small fits of the tiny model, in this process or in a child that can be killed."""

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch

from itda_lightning import ITDA, ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO
from tests.processes import PROCESSES, print_to

HOOK = "blocks.1.hook_resid_post"

# Options of the command for atoms as grown.
AS_GROWN = {"model.pursuit": "omp", "model.nonnegative": "false", "model.l0": "null", "refine": "null"}
AS_GROWN |= {"data.cache_dir": "null"}

PATIENCE = 1200.0  # seconds: more than ten times what any child takes on a quiet machine


def data_settings(model: Path, prose: Path, **others: Any) -> dict[str, Any]:
    """Return arguments of a small ActivationsDataModule: 16 batches of 128 positions, less those left out."""
    return {
        "model": str(model),
        "hook_names": [HOOK],
        "dataset": str(prose),
        "context_size": 32,
        "training_tokens": 2048,
        "validation_tokens": 512,
        "batch_size": 128,
        **others,
    }


def trainer(**others: Any) -> L.Trainer:
    """Return a plain trainer that writes nothing; ``others`` are further arguments."""
    options: dict[str, Any] = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "accelerator": "cpu",
    }
    return L.Trainer(max_epochs=1, enable_model_summary=False, **(options | others))


def fitted(data: ActivationsDataModule, **others: Any) -> ITDA:
    """Return a module after a small fit without the command; ``others`` are arguments of the module."""
    module = ITDA(**({"max_atoms": 150, "k": 4, "threshold": 0.75, "calibration_tokens": 512} | others))
    trainer().fit(module, datamodule=data)
    return module


def copies(module: ITDA, path: Path) -> Callable[[], ITDA]:
    """Save a module after its fit into ``path``; every call of what is returned gives another module of it."""
    fit = module.trainer
    fit.strategy.checkpoint_io = SafetensorsCheckpointIO()
    fit.save_checkpoint(path)
    return lambda: ITDA.load_from_checkpoint(path)


def sharing_models(make: Callable[..., ActivationsDataModule]) -> Callable[..., ActivationsDataModule]:
    """Let the data that ``make`` makes share language models: each is loaded once, for all tests of the fixture."""
    models: dict[tuple, LanguageModel] = {}

    def make_sharing(**others: Any) -> ActivationsDataModule:
        data = make(**others)
        key = (data.model_name, *data.hook_names)
        if key not in models:
            models[key] = data.language_model
        data.language_model = models[key]
        return data

    return make_sharing


def fit_arguments(model: Path, prose: Path, runs: Path, **others: Any) -> list[str]:
    """Return the command line of a small fit; ``others`` are further options, with __ for the dot."""
    options: dict[str, Any] = {f"data.{name}": value for name, value in data_settings(model, prose).items()}
    options |= {
        "data.hook_names": f"[{HOOK}]",
        "model.max_atoms": 150,
        "model.k": 4,
        "model.threshold": 0.75,
        "model.calibration_tokens": 512,
        **AS_GROWN,
        "run.runs_directory": str(runs),
        "run.checkpoint_every": 3,
        "run.validate_every": 4,
        "trainer.enable_progress_bar": "false",
        "trainer.accelerator": "cpu",
    }
    options |= {name.replace("__", "."): value for name, value in others.items()}
    return [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]


def fit_in_child(
    arguments: list[str],
    output: Path,
    at_step: int | None = None,
    signal_number: int = 0,
    *,
    of_refinement: bool = False,
) -> int:
    """Run the fit command in a process of its own and return its exit code.

    With ``at_step`` the process sends itself the signal in the middle of that training step (of that step of refinement
    with ``of_refinement``); the first is 0.
    """
    return _exit_codes([(arguments, str(output), at_step, signal_number, of_refinement, {})], PATIENCE)[0]


def fit_in_children(
    n: int, arguments: list[str], output: Path, at_step: int | None = None, victim: int = 0, timeout: float = PATIENCE
) -> list[int]:
    """Run the fit command in ``n`` processes of one group, as torchrun does, and return their exit codes.

    The output of each is in the file OUTPUT.RANK. With ``at_step`` process ``victim`` kills itself in that step.
    """
    command = [*arguments, "--trainer.devices", str(n)]
    calls = [
        (command, f"{output}.{rank}", at_step if rank == victim else None, signal.SIGKILL, False, variables)
        for rank, variables in enumerate(group_variables(n))
    ]
    return _exit_codes(calls, timeout)


def group_variables(n: int) -> list[dict[str, str]]:
    """Return the environment variables that torchrun sets for each of ``n`` processes of one group on this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    of_all = {"GROUP_RANK": 0, "WORLD_SIZE": n, "LOCAL_WORLD_SIZE": n, "TORCHELASTIC_RUN_ID": "tests"}
    of_all |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    groups = [of_all | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(n)]
    return [{name: str(value) for name, value in variables.items()} for variables in groups]


def _exit_codes(calls: list[tuple], timeout: float) -> list[int]:
    processes = [PROCESSES.Process(target=_child, args=call) for call in calls]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert None not in codes, f"the fit hangs: {codes}"
    return codes


def _child(
    arguments: list[str],
    output: str,
    at_step: int | None,
    signal_number: int,
    of_refinement: bool,
    environment: dict[str, str],
) -> None:
    os.environ.update(environment)
    from itda_lightning.fit import main
    from itda_lightning.fitting import refinement
    from itda_lightning.fitting.module import ITDA
    from itda_lightning.machine.command_line import run_command

    Path(output).unlink(missing_ok=True)
    print_to([Path(output)] * 2)
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    step, refinement_step = ITDA.training_step, refinement.refinement_step

    def training_step(self: ITDA, batch: Any, batch_idx: int) -> None:
        step(self, batch, batch_idx)
        if batch_idx == at_step and not of_refinement:
            os.kill(os.getpid(), signal_number)

    def counted(state: Any, *others: Any) -> Any:
        if int(state.step) == at_step and of_refinement:
            os.kill(os.getpid(), signal_number)
        return refinement_step(state, *others)

    ITDA.training_step = training_step  # type: ignore[method-assign]
    vars(refinement)["refinement_step"] = counted
    run_command(lambda: main(arguments))
