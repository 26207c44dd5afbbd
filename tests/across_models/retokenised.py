"""A model whose tokenizer has lost some of its merges."""

import json
from pathlib import Path


def cut_merges(model: Path, target: Path, kept: float) -> Path:
    """Make the model in ``target`` with the first share of its tokenizer's merges: the same bytes in shorter tokens."""
    target.mkdir()
    for file in model.iterdir():
        if file.name != "tokenizer.json":
            (target / file.name).symlink_to(file)
    content = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    merges = content["model"]["merges"]
    content["model"]["merges"] = merges[: int(kept * len(merges))]
    (target / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    return target
