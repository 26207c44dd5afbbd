"""A model with another tokenizer: its own, with some of the merges cut."""

import json
from pathlib import Path


def cut_merges(model: Path, target: Path, kept: float) -> Path:
    """The model in ``target`` with a tokenizer of only the first share of its merges: the same bytes in shorter tokens."""
    target.mkdir()
    for file in model.iterdir():
        if file.name != "tokenizer.json":
            (target / file.name).symlink_to(file)
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    merges = content["model"]["merges"]
    content["model"]["merges"] = merges[: int(kept * len(merges))]
    (target / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return target
