"""Measure how many small faults the tests notice: change one place of a function, run the nearest tests, and again.

    python -m benchmarks.mutation.run --per-room 20

Tests are imported and collected once. Every mutant is a fork of that process in which a function has other code, so it
costs what its tests cost. Results are written after every mutant, and a run that was killed resumes.
"""

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutation.mutants import Mutant, mutants_of
from benchmarks.mutation.nearest import nearest
from benchmarks.mutation.replace import replace

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results" / "mutants.json"
PACKAGE = "itda_lightning"
ROOMS = {
    "pursuit": "pursuit/*.py",
    "loops": "pursuit/kernels/*.py",
    "growth": "growth/*.py",
    "dictionary": "dictionary/*.py",
    "cache": "activations/cache.py",
    "fitting": "fitting/*.py",
    "probing": "comparison/probing*.py",
    "statistics": "comparison/bootstrap.py",
}
# Names, types, and what compiles loops ahead of use, which changes nothing but the time.
NOT_MUTATED = {"__init__.py", "compile_all.py"}
TESTS = (
    "tests/pursuit", "tests/growth", "tests/dictionary", "tests/fitting", "tests/activations/test_cache.py",
    "tests/activations/test_cache_errors.py", "tests/activations/test_cache_resume.py",
    "tests/comparison/test_probing.py", "tests/comparison/test_probing_examples.py",
    "tests/comparison/test_bootstrap.py", "tests/comparison/test_document_sums.py",
    "tests/doors/test_fit_refused.py", "tests/house/test_files_of_the_version_before.py",
)  # fmt: skip
# Types of the package are checked, as in all tests. The study's own modules come before the hook that checks them.
ARGUMENTS = ["-q", "-p", "no:cacheprovider", "-m", "not slow", f"--jaxtyping-packages={PACKAGE},beartype.beartype"]
# Seconds of the processor that tests may take until no further one starts, and until they count as endless; of the
# clock, in which some only wait.
BUDGET, ENDLESS, WAITING = 15.0, 150.0, 1800.0


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-room", type=int, default=20, help="mutants drawn per room; more continue the same draw")
    parser.add_argument("--rooms", nargs="*", default=list(ROOMS), choices=ROOMS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="run those that survived again, with ten times the budget")
    parser.add_argument("--keys", nargs="*", help="run these mutants again and no others")
    parser.add_argument("--tests", nargs="*", help="collect these tests only")
    options = parser.parse_args()
    os.chdir(ROOT)
    tests = options.tests or [place for place in TESTS if (ROOT / place).exists()]
    pytest.main([*ARGUMENTS, *tests], plugins=[Loop(options)])


def draw(rooms: Sequence[str], per_room: int, seed: int) -> list[tuple[str, Mutant]]:
    """Draw mutants of each room, the rooms in turn."""
    by_room = []
    for room in rooms:
        files = [path for path in sorted((ROOT / PACKAGE).glob(ROOMS[room])) if path.name not in NOT_MUTATED]
        mutants = [mutant for path in files for mutant in mutants_of(ROOT, str(path.relative_to(ROOT)))]
        # By their names, so that what is added to a file or leaves it does not change the draw of others.
        mutants.sort(key=lambda mutant: hashlib.sha256(f"{seed} {mutant.key}".encode()).digest())
        by_room.append([(room, mutant) for mutant in mutants[:per_room]])
    most = max(map(len, by_room), default=0)
    return [turn[place] for place in range(most) for turn in by_room if place < len(turn)]


class Loop:
    """A pytest plugin that runs mutants instead of the tests."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, path = options, options.results
        self.results: dict[str, dict[str, Any]] = json.loads(path.read_text()) if path.exists() else {}
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Run every drawn mutant that has no result, or is to be run again."""
        options = self.options
        drawn = draw(options.rooms, 10**6 if options.keys else options.per_room, options.seed)
        _load_loops()
        for number, (room, mutant) in enumerate(drawn, 1):
            before = self.results.get(mutant.key)
            survived = before is not None and before["outcome"] == "survived"
            if (mutant.key not in options.keys) if options.keys else (before and not (options.again and survived)):
                continue
            items = nearest(session.items, ROOT, mutant.file, mutant.function)
            items.sort(key=lambda item: self.seconds.get(item.nodeid, 1.0) > 3)  # dear ones last
            result = self._run(mutant, items)
            place = {"room": room, "file": mutant.file, "function": mutant.function, "line": mutant.line}
            change = {"kind": mutant.kind, "before": mutant.before, "after": mutant.after}
            first = before["first"] if before else result["outcome"]
            self.results[mutant.key] = place | change | result | {"first": first}
            self._write()
            print(f"\n{number}/{len(drawn)} {mutant.key} {mutant.file}:{mutant.line} {result}", flush=True)
        return True

    def _write(self) -> None:
        path = self.options.results
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n")
        part.replace(path)

    def _run(self, mutant: Mutant, items: list[pytest.Item]) -> dict[str, Any]:
        """Run tests on a mutant; return the outcome, the test that noticed it, and the number of tests that ran."""
        budget = BUDGET * (10 if self.options.again else 1)
        with tempfile.NamedTemporaryFile(mode="r", suffix=".json") as answer:
            child = os.fork()
            if not child:
                _in_child(mutant, items, budget, Path(answer.name))
            code = _wait(child, time.monotonic() + WAITING)
            text = answer.read()
        assert code != 3, f"the study itself failed on {mutant}: {text}"
        lines = [json.loads(line) for line in text.splitlines()]
        self.seconds |= {line["test"]: line["seconds"] for line in lines}
        outcomes = {0: "survived", 1: "killed", None: "endless", -signal.SIGXCPU: "endless", -signal.SIGKILL: "endless"}
        failed = [line["test"] for line in lines if line["failed"]]
        return {"outcome": outcomes.get(code, "killed"), "test": (failed or [""])[0], "tests": len(lines)}


def _load_loops() -> None:
    """Load the compiled loops, which every fork then has."""
    import torch

    from itda_lightning.pursuit.prepared import compiler_works

    for name in ("several_steps", "pruning_rows", "support_rows"):  # imported when they are first used
        importlib.import_module(f"{PACKAGE}.pursuit.kernels.{name}")
    assert compiler_works(torch.float32)
    assert compiler_works(torch.bfloat16)


def _in_child(mutant: Mutant, items: list[pytest.Item], budget: float, answer: Path) -> None:
    """Run the tests until one fails or the budget is spent, and end this process."""
    code = 3
    try:
        os.setsid()
        spent = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + budget + ENDLESS), int(spent + budget + ENDLESS + 5)))
        replace(mutant, ROOT / mutant.file)
        code = 0
        with answer.open("w") as file:
            for item, following in zip(items, [*items[1:], None], strict=True):
                start = time.process_time()
                if start - spent > budget:
                    break
                from _pytest.runner import runtestprotocol

                reports = runtestprotocol(item, nextitem=following, log=False)
                failed = any(report.failed for report in reports)
                line = {"test": item.nodeid, "seconds": time.process_time() - start, "failed": failed}
                file.write(json.dumps(line) + "\n")
                file.flush()
                if failed:
                    code = 1
                    break
    except BaseException:
        answer.write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _wait(child: int, deadline: float) -> int | None:
    """Return the exit code of the process, None if it did not end; what it started ends with it."""
    code = None
    while code is None and time.monotonic() < deadline:
        done, state = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(state)
        else:
            time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        os.waitpid(child, 0)
    return code


if __name__ == "__main__":
    main()
