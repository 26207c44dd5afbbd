"""Files are short, doors are thin, tests stand in rooms."""

from pathlib import Path

import pytest

from tests.house.test_architecture import DOORS, FILES, PACKAGE, module_of

TESTS = Path(__file__).parents[1]
MAX_LINES, MAX_TEST_LINES = 300, 320
MAX_DOOR_LINES = 99


def lines_of(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())


def test_files_are_short() -> None:
    lengths = {module_of(path): lines_of(path) for path in FILES}
    long = {name: lines for name, lines in lengths.items() if lines > MAX_LINES}
    assert not long, f"more than {MAX_LINES} lines, split them by idea: {long}"


@pytest.mark.parametrize("door", DOORS)
def test_doors_are_thin(door: str) -> None:
    lines = lines_of(PACKAGE / f"{door}.py")
    assert lines <= MAX_DOOR_LINES, f"{door}.py has {lines} lines, over {MAX_DOOR_LINES}: move its work into a room"


def test_tests_are_short_and_stand_beside_what_they_test() -> None:
    assert not sorted(TESTS.glob("test_*.py")), "no test stands at the root of tests/"
    lengths = {str(path.relative_to(TESTS)): lines_of(path) for path in TESTS.rglob("*.py")}
    long = {name: lines for name, lines in lengths.items() if lines > MAX_TEST_LINES}
    assert not long, f"more than {MAX_TEST_LINES} lines, split them by idea: {long}"
