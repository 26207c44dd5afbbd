"""Models made of another one, of which one file is changed: fewer merges of the tokenizer, fewer layers."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cut_merges(model: Path, target: Path, kept: float) -> Path:
    """Make the model in ``target`` with the first share of its tokenizer's merges: the same bytes in shorter tokens."""

    def cut(content: dict[str, Any]) -> None:
        merges = content["model"]["merges"]
        content["model"]["merges"] = merges[: int(kept * len(merges))]

    return _with_changed(model, target, "tokenizer.json", cut)


def first_layers(model: Path, target: Path, number: int) -> Path:
    """Make in ``target`` the model of the first layers of a model, which load in a fraction of its time."""
    return _with_changed(model, target, "config.json", lambda config: config.update(num_hidden_layers=number))


def _with_changed(model: Path, target: Path, name: str, change: Callable[[dict[str, Any]], None]) -> Path:
    target.mkdir()
    for file in model.iterdir():
        if file.name != name:
            (target / file.name).symlink_to(file)
    content = json.loads((model / name).read_text(encoding="utf-8"))
    change(content)
    (target / name).write_text(json.dumps(content), encoding="utf-8")
    return target
