"""Fits by several processes: the same bits on any number of them, and a message on each when one dies."""

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from itda_lightning import ITDA, InputError, fit, harvest
from itda_lightning.activations.backends import harvest_run
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.fitting.checkpoint_io import read_checkpoint
from itda_lightning.machine.command_line import run_command
from itda_lightning.machine.processes import gather_json, gather_rows, shares
from tests.fits import HOOK, data_settings, fit_arguments, fit_in_children, group_variables, trainer
from tests.process_groups import run_in_group
from tests.processes import run_python

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

BOTH = ["blocks.0.hook_resid_post", HOOK]


def contents(run: Path, hooks: list[str]) -> list[tuple]:
    """Everything that a fit decides: tensors and facts of every dictionary, and the figures."""
    found: list[tuple] = [(json.loads((run / "metrics.json").read_text())["hook_points"],)]
    for hook in hooks:
        dictionary = Dictionary.load(run / "dictionaries" / hook)
        tensors = [dictionary.atoms, dictionary.bias, dictionary.source_table, dictionary.labels]
        tensors += [] if dictionary.label_cosines is None else [dictionary.label_cosines]
        dictionary.metadata["data"].pop("cache_dir")
        found.append(([tensor.numpy().tobytes() for tensor in tensors], dictionary.label_prompts, dictionary.metadata))
    return found


def files_in(directory: Path) -> dict[str, bytes]:
    """Return the contents of all files below a directory."""
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize("joint", [False, True])
def test_one_and_three_processes_give_the_same_bits(tiny_model_dir, prose_file, tmp_path, joint):
    """Fit with a cache and refine. Rows are so short that the cache has several files."""
    others = {"model__growth": "frozen_batch", "data__model_batch_size": 3}
    others |= {"data__hook_names": f"[{','.join(BOTH)}]", "data__joint": "true"} if joint else {}
    hook = "blocks.0+1.hook_resid_post" if joint else HOOK
    others |= {
        "data__context_size": 8,
        "refine": "{anchor: 0.5, passes: 3, batch_size: 128, unmix: 0.3, relabel: true}",
    }
    runs, caches = {}, []
    for n in (1, 3):
        others["data__cache_dir"] = tmp_path / f"cache{n}"
        arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, run__directory=tmp_path / f"of{n}", **others)
        if n == 1:
            fit.main(arguments)
        else:
            assert fit_in_children(n, arguments, tmp_path / f"output{n}") == [0] * n
        runs[n] = contents(tmp_path / f"of{n}", [hook])
        caches.append(files_in(tmp_path / f"cache{n}"))
    assert 20 < Dictionary.load(tmp_path / "of1" / "dictionaries" / hook).n_atoms < 150
    assert runs[3] == runs[1]
    assert len(caches[0]) == (5 + 4) + (5 + 1)
    assert caches[1] == caches[0]


@pytest.mark.parametrize(("growth", "victim", "n"), [("worst_first", 0, 3), ("sequential", 1, 1)])
def test_a_fit_of_two_resumes_with_one_and_with_three(tiny_model_dir, prose_file, tmp_path, growth, victim, n):
    """One of two processes is killed: the other says so and ends; the run resumes with another number of processes."""
    others = {"model__growth": growth, "data__hook_names": f"[{','.join(BOTH)}]", "data__model_batch_size": 3}
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, **others)
    fit.main([*arguments, "--run.directory", str(tmp_path / "whole")])
    assert 20 < Dictionary.load(tmp_path / "whole" / "dictionaries" / HOOK).n_atoms < 150
    codes = fit_in_children(2, arguments, tmp_path / "killed", 10, victim)
    assert codes == ([-signal.SIGKILL, 2] if victim == 0 else [2, -signal.SIGKILL])
    output = (tmp_path / f"killed.{1 - victim}").read_text()
    assert f"error: process {1 - victim} of 2 lost the others" in output
    assert "one of them ended" in output
    assert "--ckpt_path last" in output
    assert read_checkpoint(tmp_path / "itda-001" / "checkpoints" / "last.ckpt")["global_step"] == 9
    resumed = [*arguments, "--ckpt_path", "last"]
    if n == 1:
        fit.main(resumed)
    else:
        assert fit_in_children(n, resumed, tmp_path / "output") == [0] * n
    assert contents(tmp_path / "itda-002", BOTH) == contents(tmp_path / "whole", BOTH)


def test_the_command_starts_its_processes_itself(tiny_model_dir, prose_file, tmp_path):
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, run__directory=tmp_path / "run", trainer__devices=2)
    ended = run_python("-m", "itda_lightning.fit", *arguments)
    assert ended.returncode == 0, ended.stderr
    assert "2 processes" in ended.stderr
    assert Dictionary.load(tmp_path / "run" / "dictionaries" / HOOK).n_atoms > 20


def _fit_under_torchrun(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    run_command(lambda: fit.main(arguments))


def test_bad_input_of_one_ends_all(tiny_model_dir, prose_file, tmp_path):
    """Start two processes by torchrun's agent, which forks them here: importing is most of a command."""
    (tmp_path / "run").mkdir()  # only the first process makes the directory
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, run__directory=tmp_path / "run", trainer__devices=2)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        start_method="forkserver",
        logs_specs=DefaultLogsSpecs(log_dir=str(tmp_path / "logs"), redirects=Std.ERR),
    )
    signals = {
        number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    }
    try:
        with pytest.raises(ChildFailedError):
            elastic_launch(config, _fit_under_torchrun)(arguments)
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)
    (log,) = (tmp_path / "logs").rglob("0/stderr.log")
    assert "exists already: a run never overwrites another" in log.read_text()


def test_a_harvest_by_two_gives_the_cache_of_one(tiny_model_dir, prose_file, tmp_path):
    settings = data_settings(tiny_model_dir, prose_file, context_size=8, device="cpu")
    arguments = [f"--data.{name}={value}" for name, value in settings.items() if name != "hook_names"]
    arguments.append(f"--data.hook_names=[{HOOK}]")
    harvest.main([*arguments, f"--data.cache_dir={tmp_path / 'of1'}"])
    of_two = ["-m", "itda_lightning.harvest", *arguments, f"--data.cache_dir={tmp_path / 'of2'}"]
    with ThreadPoolExecutor() as threads:
        ended = list(threads.map(lambda variables: run_python(*of_two, **variables), group_variables(2)))
    assert [process.returncode for process in ended] == [0, 0], ended
    assert [process.stdout.count("tokens: 2,560") for process in ended] == [1, 0]
    assert [process.stdout.count("2,560 tokens harvested; cache: ") for process in ended] == [1, 0]
    assert files_in(tmp_path / "of2") == files_in(tmp_path / "of1")
    assert len(files_in(tmp_path / "of1")) == (5 + 4) + (5 + 1)


def test_a_streamed_harvest_is_of_one_process(tiny_model_dir, prose_file, tmp_path, monkeypatch):
    settings = data_settings(tiny_model_dir, prose_file, cache_dir=tmp_path, hook_names=f"[{HOOK}]")
    monkeypatch.setattr(harvest_run, "n_ranks", lambda: 2)
    with pytest.raises(InputError, match=r"reads each layer once, in one process, not 2: start it without torchrun"):
        harvest.main([*(f"--data.{name}={value}" for name, value in settings.items()), "--backend=streamed"])


def test_another_strategy_is_refused(tiny_model_dir, prose_file):
    from itda_lightning import ActivationsDataModule

    several: Any = trainer(devices=2, strategy="ddp_spawn")
    module = ITDA(max_atoms=10, threshold=0.5)
    module._trainer = several
    several.datamodule = ActivationsDataModule(**data_settings(tiny_model_dir, prose_file))
    with pytest.raises(
        InputError, match=r"2 processes fit an ITDA with strategy=itda_lightning.Replicated\(\), not DDP"
    ):
        module.setup("fit")


def _collectives() -> tuple:
    rank = torch.distributed.get_rank()
    counts = [2, 0, 1]
    rows = torch.full((counts[rank], 2), rank, dtype=torch.float64)
    values = gather_json({"rank": rank, "text": "ä" * rank})
    return gather_rows(rows, counts).tolist(), values, [(part.start, part.stop) for part in shares(10, 4)]


def test_every_process_gets_the_rows_of_all():
    expected_rows = [[0.0, 0.0], [0.0, 0.0], [2.0, 2.0]]
    expected_values = [{"rank": rank, "text": "ä" * rank} for rank in range(3)]
    for rows, values, parts in run_in_group(3, _collectives):
        assert rows == expected_rows
        assert values == expected_values
        assert parts == [(0, 4), (4, 8), (8, 10)]
