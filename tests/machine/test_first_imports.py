"""A package that cannot be imported ends a command in one line; whoever imports this one gets the error itself."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from itda_lightning.machine import installation
from itda_lightning.machine.command_line import run_command
from itda_lightning.machine.first_imports import explain_imports, program, unimportable

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("call", "code", "end"),
    [
        (["-m", "itda_lightning.fit", "--config", "x"], 2, "and see `itda doctor`\n"),
        (["-uBm", "itda_lightning", "verify", "x"], 2, "and see `itda doctor`\n"),
        (["-mitda_lightning.page", "--dictionary", "x"], 2, "and see `itda doctor`\n"),
        (
            ["-c", "import itda_lightning; itda_lightning.Dictionary"],
            1,
            "ImportError: libtorch.so: cannot open shared object file\n",
        ),
    ],
)
def test_a_package_that_all_need_and_that_is_broken(tmp_path: Path, call: list[str], code: int, end: str) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch.so: cannot open shared object file', name='torch')")
    paths = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": ""}
    ended = subprocess.run([sys.executable, *call], env=paths, capture_output=True, text=True, check=False)
    assert ended.returncode == code
    assert ended.stderr.endswith(end)
    assert (ended.stderr.count("\n") == 1) == (code == 2)
    if code == 2:
        assert ended.stderr.startswith(
            "error: a package that this needs cannot be imported (ImportError: libtorch.so: "
        )


def test_an_old_version_is_named_with_the_one_that_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    error = AttributeError("module 'transformer_lens' has no attribute 'HookPoint'")
    assert unimportable(error) is None  # nothing is wrong with what is installed, so this is a bug
    assert unimportable(ImportError("no such name", name="itda_lightning.pursuit")) is None
    old = installation.Package("transformer-lens", "4.0", "<4", "4.0 is installed, <4 is needed")
    monkeypatch.setattr(installation, "required", lambda: [old])
    text = unimportable(error)
    assert text is not None
    assert "transformer-lens: 4.0 is installed, <4 is needed; run `pip install --upgrade itda-lightning`" in text


def test_what_a_command_imports_later_is_one_line_too(capsys: pytest.CaptureFixture) -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'jinja2'", name="jinja2")

    with pytest.raises(SystemExit) as ended:
        run_command(command)
    assert ended.value.code == 2
    assert "cannot be imported (ModuleNotFoundError: No module named 'jinja2')" in capsys.readouterr().err


def test_other_programs_keep_their_own_way_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "x"])
    before = sys.excepthook
    explain_imports()
    assert sys.excepthook is before
    assert program() == "pytest"


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ImportError("no numba", name="numba"), 2, "error: a package that this needs cannot be imported"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_the_hook_of_commands(monkeypatch, capsys, error, code, said) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/itda", "fit"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    explain_imports()
    assert not gc.isenabled()
    run_command(lambda: None)
    assert gc.isenabled()
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(type(error), error, None)
    assert ended.value.code == code
    assert capsys.readouterr().err.startswith(said)
