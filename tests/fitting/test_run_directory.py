"""Run directories: one a run, never reused."""

import json
import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from itda_lightning.errors import InputError
from itda_lightning.fitting.run_directory import (
    RunSettings,
    logged,
    make_run_directory,
    output_path,
    removed_if_nothing_began,
)
from itda_lightning.machine.command_line import Terminated
from itda_lightning.machine.part_files import _machine
from itda_lightning.machine.versions import versions_and_hardware


def test_numbering_takes_the_first_free_number(tmp_path):
    assert make_run_directory(None, str(tmp_path / "runs"), "fit") == tmp_path / "runs" / "fit-001"
    assert make_run_directory(None, str(tmp_path / "runs"), "fit") == tmp_path / "runs" / "fit-002"
    assert make_run_directory(None, str(tmp_path / "runs"), "other") == tmp_path / "runs" / "other-001"
    (tmp_path / "runs" / "fit-003").write_text("a file")
    (tmp_path / "runs" / "fit-001").rmdir()
    assert make_run_directory(None, str(tmp_path / "runs"), "fit") == tmp_path / "runs" / "fit-001"
    assert make_run_directory(None, str(tmp_path / "runs"), "fit") == tmp_path / "runs" / "fit-004"


def test_what_a_command_writes_is_where_it_was_asked_for_or_in_the_run_or_here(tmp_path):
    run = tmp_path / "run"
    assert output_path(str(run), "blocks.1", "page.html") == Path("page.html")  # no run, such as a checkpoint
    (run / "dictionaries").mkdir(parents=True)
    assert output_path(str(run), "blocks.1", "page.html") == run / "page-blocks.1.html"
    assert output_path(str(run), "blocks.1", "page.html", str(tmp_path / "x.html")) == tmp_path / "x.html"


def test_runs_that_start_together_get_directories_of_their_own(tmp_path):
    with ThreadPoolExecutor(32) as threads:
        made = list(threads.map(lambda _: make_run_directory(None, str(tmp_path), "fit"), range(100)))
    assert sorted(path.name for path in made) == [f"fit-{number:03d}" for number in range(1, 101)]


def test_a_wanted_directory_is_made_with_its_parents_and_taken_once(tmp_path):
    wanted = tmp_path / "a" / "b" / "run"
    assert make_run_directory(str(wanted), "unused", "unused") == wanted
    assert wanted.is_dir()
    with pytest.raises(InputError, match=r"the run directory .*b/run exists already: a run never overwrites another"):
        make_run_directory(str(wanted), "unused", "unused")


def test_a_directory_that_is_taken_is_refused_with_the_way_on(tmp_path):
    """A fit killed in its harvest leaves one without a checkpoint, in which another process may still be at work."""
    begun = ["config.yaml", "checkpoints/step3.ckpt", "metrics.json"]
    ways = [
        r"--ckpt_path last starts the fit .* or remove it if no process",
        r"--ckpt_path last resumes it",
        "finished",
    ]
    run, other = tmp_path / "run", RunSettings(directory=str(tmp_path / "run"))
    for number, (file, way) in enumerate(zip(begun, ways, strict=True), 1):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).touch()
        with pytest.raises(InputError, match=rf"a run never overwrites another; .*{way}"):
            other.make_directory(resumed=False)
        assert other.make_directory(resumed=True) == tmp_path / f"run-resumed-00{number}"
    assert sorted(path.name for path in run.iterdir()) == ["checkpoints", "config.yaml", "metrics.json"]


def test_what_a_kill_left_in_a_run_is_removed_when_it_is_resumed(tmp_path):
    (tmp_path / "fit-001" / "checkpoints").mkdir(parents=True)
    (tmp_path / "fit-001" / "checkpoints" / "step3.ckpt").touch()
    left = [tmp_path / "fit-001" / "checkpoints" / ".step6.ckpt.4194311.part", tmp_path / "fit-001" / "dictionaries"]
    left[0].touch()
    left[1] = left[1] / f".hook.{_machine()}-4194311-{'0' * 16}.part"
    left[1].mkdir(parents=True)
    run = RunSettings(runs_directory=str(tmp_path), name="fit")
    assert run.checkpoint("last") == str(tmp_path / "fit-001" / "checkpoints" / "step3.ckpt")
    assert not any(path.exists() for path in left)


def test_a_home_directory_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert make_run_directory("~/run", "unused", "unused") == tmp_path / "run"
    assert make_run_directory(None, "~/runs", "fit") == tmp_path / "runs" / "fit-001"


def test_a_place_where_nothing_can_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        InputError, match=r"not permitted while making a run directory in .*file/runs \(Not a directory"
    ):
        make_run_directory(None, str(tmp_path / "file" / "runs"), "fit")
    with pytest.raises(InputError, match=r"not permitted while making the run directory .*file/run \("):
        make_run_directory(str(tmp_path / "file" / "run"), "unused", "fit")
    with pytest.raises(InputError, match=r"while making the run directory /proc/none/run"):
        make_run_directory("/proc/none/run", "unused", "fit")


@pytest.mark.parametrize("name", ["", " ", "a/b", "a\0b", "a" * 250])
def test_names_that_no_directory_can_have_are_refused(name):
    with pytest.raises(InputError, match=r"run.name"):
        RunSettings(name=name)
    with pytest.raises(InputError, match=r"run.runs_directory"):
        RunSettings(runs_directory="~nouser-at-all/x")
    with pytest.raises(InputError, match=r"run.directory"):
        RunSettings(directory="a\0b")


def test_a_log_on_a_full_disk_is_one_line_and_the_run_goes_on(tmp_path, capsys):
    (tmp_path / "fit.log").symlink_to("/dev/full")
    with logged(tmp_path):
        for number in range(3):
            logging.getLogger("itda_lightning.x").warning("step %d", number)
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "step" not in line]
    assert told.startswith(f"cannot write {tmp_path}/fit.log ([Errno 28] No space left on device): the run goes on")


def test_the_log_ends_with_how_the_fit_ended(tmp_path, capsys):
    for error in (InputError("too few"), ZeroDivisionError("x")):
        ending = f"{type(error).__name__}: {error}"
        with pytest.raises(type(error)), logged(tmp_path):
            raise error
        log = (tmp_path / "fit.log").read_text()
        assert f"ERROR the fit ended early: {ending}" in log
        assert ("Traceback" in log) == isinstance(error, ZeroDivisionError)
        assert log.rstrip().endswith(ending)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("error", [InputError("too few"), KeyboardInterrupt(), Terminated()])
def test_a_run_that_ends_before_its_first_checkpoint_leaves_nothing(tmp_path, error):
    for begun in (False, True):
        directory = tmp_path / "run" / "checkpoints"
        directory.mkdir(parents=True)
        if begun:
            (directory / "last.ckpt").touch()
        with pytest.raises(type(error)), removed_if_nothing_began(tmp_path / "run"):
            raise error
        assert directory.exists() == begun


def test_versions_and_hardware_are_json():
    facts = json.loads(json.dumps(versions_and_hardware()))
    assert facts["torch"] == torch.__version__
    assert re.fullmatch(r"3\.\d+\.\d+", facts["python"])
    assert all(facts[name] for name in ("itda-lightning", "lightning", "sae-lens", "transformer-lens", "cpus"))
    assert facts["memory_gb"] > 0
    assert isinstance(facts["gpus"], list)
