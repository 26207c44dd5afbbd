"""The examples of docs/extending.md run, one after another, as they would for a user."""

import re
from pathlib import Path

from tests.processes import run_python

DOCUMENT = Path(__file__).parents[2] / "docs" / "extending.md"


def test_the_examples_run(tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == 4
    done = run_python("-c", "\n".join(examples), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
