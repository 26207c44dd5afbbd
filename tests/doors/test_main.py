"""The list of commands, the console script, and what all commands have in common."""

import importlib
import os
import subprocess
import sys

import pytest

from itda_lightning.__main__ import COMMANDS, main
from tests.house.test_architecture import DOORS
from tests.processes import run_python


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "itda_lightning", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=600, env=os.environ | environment
    )


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_every_command_is_listed_in_one_line(capsys, arguments):
    main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert set(COMMANDS) == set(DOORS)
    for command, text in COMMANDS.items():
        assert f"  {command:<12} {text}" in lines


def test_the_list_does_not_wait_for_torch():
    ended = run(PYTHONPROFILEIMPORTTIME="1")
    assert ended.returncode == 0
    assert "similarity" in ended.stdout
    imported = {line.rpartition("|")[2].strip() for line in ended.stderr.splitlines()}
    assert "itda_lightning" in imported
    assert not imported & {"torch", "lightning", "sae_lens", "transformers"}


def test_a_command_runs_as_its_module_does_and_ends_with_its_exit_code(tmp_path):
    arguments = ("export", "--dictionary", tmp_path / "nowhere", "--output", tmp_path / "output")
    ended = run_python("-m", "itda_lightning", *arguments)
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/nowhere does not exist")


def test_an_unknown_command_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fitt"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'fitt': choose one of demo, fit, harvest")


@pytest.mark.parametrize("door", DOORS)
def test_help_names_the_command(capsys, door):
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"itda_lightning.{door}").main(["--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m itda_lightning.{door} [")
