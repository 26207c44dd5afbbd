"""Mutants: every change parses, changes one place and has a name that stays."""

import ast
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.mutation.mutants import mutants_of
from benchmarks.mutation.nearest import nearest
from benchmarks.mutation.report import scores
from benchmarks.mutation.run import ROOMS, ROOT, draw

SOURCE = """
LIMIT = 3

class Counter:
    def count(self, values: list[int], least: int = 1) -> int:
        \"\"\"Count.\"\"\"
        assert values
        if least < 0 or not values:
            raise ValueError(f"least {least + 1}")
        total = 0
        for value in values:
            total += value >= least
        return min(total, LIMIT) - 1
"""


def test_mutants_of_a_function(tmp_path):
    (tmp_path / "counter.py").write_text(SOURCE)
    mutants = mutants_of(tmp_path, "counter.py")
    changes = {(mutant.kind, mutant.before, mutant.after) for mutant in mutants}
    assert changes == {
        ("boolean", "least < 0 or not values", "(least < 0 and (not values))"),
        ("comparison", "least < 0", "(least <= 0)"),
        ("constant", "0", "1"),
        ("operator dropped", "not values", "(values)"),
        ("statement dropped", 'raise ValueError(f"least {least + 1}")', "pass"),
        ("statement dropped", "total += value >= least", "pass"),
        ("comparison", "value >= least", "(value > least)"),
        ("value returned", "min(total, LIMIT) - 1", "(min(total, LIMIT) - 1 + 1)"),
        ("arithmetic", "min(total, LIMIT) - 1", "(min(total, LIMIT) + 1)"),
        ("call", "min(total, LIMIT)", "max(total, LIMIT)"),
        ("constant", "1", "2"),
    }
    assert {mutant.function for mutant in mutants} == {"Counter.count"}
    assert len({mutant.key for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        changed = mutant.applied(SOURCE.encode()).decode()
        assert changed != SOURCE
        ast.parse(changed)
    # A line more above them moves the places and leaves the names.
    (tmp_path / "counter.py").write_text("\n" + SOURCE)
    assert [mutant.key for mutant in mutants_of(tmp_path, "counter.py")] == [mutant.key for mutant in mutants]


@pytest.mark.parametrize("room", list(ROOMS))
def test_a_larger_sample_continues_a_smaller_one(room):
    few, more = draw([room], 3, seed=0), draw([room], 6, seed=0)
    assert more[:3] == few
    assert len(few) == 3
    for _, mutant in more:
        source = (ROOT / mutant.file).read_bytes()
        assert source[mutant.start : mutant.stop].decode() == mutant.before
        ast.parse(mutant.applied(source))


def test_the_tests_of_the_file_come_first():
    paths = ["tests/growth/test_rule.py", "tests/growth/test_worst_first.py", "tests/fitting/test_wandb.py"]
    items = [SimpleNamespace(path=ROOT / path, nodeid=f"{path}::test") for path in (*paths, paths[1])]
    chosen = nearest(items, ROOT, "itda_lightning/growth/worst_first.py", "grow_worst_first")
    assert [str(Path(item.path).relative_to(ROOT)) for item in chosen] == [paths[1], paths[1], paths[0]]


def test_equivalent_mutants_leave_the_score():
    outcomes = {"a": ("killed", "killed"), "b": ("survived", "endless"), "c": ("survived", "survived")}
    mutants = {key: {"room": "r", "first": first, "outcome": now} for key, (first, now) in outcomes.items()}
    counts = {"mutants": 3, "equivalent": 1, "first": 1, "now": 2}
    assert scores(mutants, {"c": "equivalent"}) == {"r": counts, "all": counts}
