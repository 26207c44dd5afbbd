"""Write the files of this folder with version 0.1.0: ``PYTHONPATH=CHECKOUT_OF_0.1.0:. python generate.py FOLDER``.

A tiny model and its text, a run with its cache, a fit that was interrupted, a refined run, exports, and the results of
the other commands. Pages are left out, and paths are relative to the folder.
"""

import contextlib
import json
import os
import runpy
import shutil
import sys
from pathlib import Path
from typing import Any

import yaml

from tests import tiny_model

HOOK = "blocks.1.hook_resid_post"
DATA = {
    "model": "model",
    "hook_names": [HOOK],
    "dataset": "prose.jsonl",
    "device": "cpu",
    "context_size": 16,
    "training_tokens": 640,
    "validation_tokens": 256,
    "batch_size": 64,
    "cache_dir": "cache",
    "cache_dtype": "float16",
}
FIT = {"max_atoms": 24, "k": 4, "threshold": 0.5}
SETTINGS: dict[str, Any] = {
    "trainer": {"accelerator": "cpu", "enable_progress_bar": False},
    "model": FIT | {"calibration_tokens": 256},
    "data": DATA,
}
EVERY = {"checkpoint_every": 2, "validate_every": 2}
COMPARE = {
    "data": DATA,
    "directory": "comparison",
    "loss_tokens": 128,
    "latents": True,
    "atoms_shown": 6,
    "controls": False,
    "entries": [{"name": "run", "load": "run"}, {"name": "random", "random": {"n_atoms": 16, "k": 4}}],
}
SIMILARITY = {
    "data": {name: value for name, value in DATA.items() if name not in ("model", "hook_names")},
    "models": [{"name": "run", "run": "run"}, {"name": "other", "run": "other"}],
    "directory": "similarity",
    "resamples": 2,
    "anchors": 16,
    "queries": 32,
    "k": 3,
}


def command(name: str, *arguments: str) -> None:
    sys.argv = [name, *arguments]
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"itda_lightning.{name}", run_name="__main__", alter_sys=True)


def with_config(name: str, config: dict) -> None:
    Path("config.yaml").write_text(yaml.safe_dump(config))
    command(name, "--config", "config.yaml")


def interrupted() -> None:
    """Leave ``interrupted.ckpt``, of the fit of ``run`` before its sixth step."""
    from itda_lightning.module import ITDA

    step = ITDA.training_step

    def interrupt(self, batch, batch_idx):
        if batch_idx == 5:
            raise KeyboardInterrupt
        step(self, batch, batch_idx)

    ITDA.training_step = interrupt
    with_config("fit", SETTINGS | {"run": EVERY | {"directory": "interrupted"}})
    ITDA.training_step = step
    shutil.copy("interrupted/checkpoints/last.ckpt", "interrupted.ckpt")


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    texts = [json.loads(line)["text"] for line in Path("prose.jsonl").read_text(encoding="utf-8").splitlines()]
    tiny_model.WIDTH, tiny_model.LAYERS = 16, 2
    for name, seed in (("model", 0), ("other_model", 1)):
        tiny_model.save_tokenizer(Path(name), texts)
        tiny_model.save_weights(Path(name), seed)
    interrupted()
    with_config("fit", SETTINGS | {"run": EVERY | {"directory": "run"}})
    refined = {"run": EVERY | {"directory": "refined"}, "refine": {"anchor": 0.9, "passes": 1, "batch_size": 64}}
    mp = SETTINGS | {"model": SETTINGS["model"] | {"pursuit": "mp"}}
    with_config("fit", mp | refined)
    own_caches = {path.name for path in Path("cache").iterdir()}
    other = DATA | {"model": "other_model", "cache_dir": None}
    with_config("fit", SETTINGS | {"data": other, "run": {"directory": "other"}})
    command("export", "--dictionary", "run", "--output", "export_itda")
    command("export", "--dictionary", "refined", "--output", "export_mp", "--architecture", "matching_pursuit")
    command("evaluate", "--dictionary", "run", "--device", "cpu", "--tokens", "128")
    with_config("compare", COMPARE)
    command(
        "transfer", "--dictionary", "run", "--model", "other_model", "--output", "transfer", "--device", "cpu",
        "--loss_tokens", "128",
    )  # fmt: skip
    command("diff", "--base", "run", "--other", "other", "--output", "difference", "--device", "cpu")
    with_config("similarity", SIMILARITY)
    caches = {path.name for path in Path("cache").iterdir()}
    for leftover in (
        *("interrupted", "other", "other_model", "config.yaml", "comparison/made", "transfer/made"),
        *("refined/checkpoints/last.ckpt", "refined/checkpoints/step10.ckpt", "run/checkpoints/step6.ckpt"),
        *(f"cache/{name}" for name in caches - own_caches),
    ):
        path = Path(leftover)
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for page in Path().rglob("*.html"):
        page.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
