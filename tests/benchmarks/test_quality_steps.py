"""The study of the number of steps: reported documents stay out, and the number is put back."""

import json
from pathlib import Path

import pytest

from benchmarks.quality import steps
from itda_lightning.pursuit import PURSUITS, generalised


def test_documents_that_comparisons_hold_out_are_left_out(tmp_path, monkeypatch):
    texts = [f"document {number}" for number in range(400)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    monkeypatch.setattr(steps, "resolve", lambda name: str(tmp_path / "all.jsonl"))
    lines = steps.unreported_text(tmp_path).read_text().splitlines()
    left = [json.loads(line)["text"] for line in lines]
    assert left == [text for text in texts if not steps.is_held_out(text, 0.05)]
    assert 360 < len(left) < 400


def test_the_number_of_steps_is_that_of_the_pursuit_meanwhile(tmp_path, monkeypatch):
    taken = []

    def compare(args: list[str]) -> int:
        taken.append(len(PURSUITS["gomp"].steps(48)))
        return 1

    monkeypatch.setattr(steps, "compare", compare)
    with pytest.raises(SystemExit, match="the fit in 8 steps failed"):
        steps.row_of(8, tmp_path, Path("text.jsonl"), [])
    assert taken == [8]
    assert generalised.STEPS == 3
