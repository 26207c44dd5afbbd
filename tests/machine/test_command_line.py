"""How commands end."""

import pytest

from itda_lightning.errors import InputError
from itda_lightning.machine.command_line import run_command


def raising(error: BaseException):
    def command() -> None:
        raise error

    return command


def test_a_command_that_succeeds_does_not_exit():
    done = []
    run_command(lambda: done.append(True))
    assert done == [True]


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(InputError("no such thing:\n  give another")))
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: no such thing: give another\n"


def test_an_interrupt_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(raising(KeyboardInterrupt()))
    assert ended.value.code == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))
