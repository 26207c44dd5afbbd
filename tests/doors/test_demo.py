"""The demo: all of it runs, and it says what it ran, how long each part took, and what to do next."""

import re
from pathlib import Path

import yaml

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.demo import FIT
from tests.processes import run_python
from tests.runs import CONTEXT, HOOK, VALIDATION_ROWS


def test_it_fits_evaluates_exports_and_shows(tmp_path: Path, tiny_model_dir: Path, prose_file: Path) -> None:
    data = {
        "model": str(tiny_model_dir),
        "hook_names": HOOK,  # one, without brackets
        "dataset": str(prose_file),
        "device": "cpu",
        "context_size": CONTEXT,
        "training_tokens": 40 * CONTEXT,
        "validation_tokens": VALIDATION_ROWS * CONTEXT,
        "cache_dir": str(tmp_path / "cache"),
    }
    model = {"max_atoms": 24, "k": 6, "threshold": 0.6}
    content = {"model": model, "data": data, "refine": {"passes": 1, "batch_size": 256}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(content))
    options = ("--fit_config", "own.yaml", "--directory", "run", "--tokens", 2 * CONTEXT)
    done = run_python("-m", "itda_lightning.demo", *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"^\$ itda (\w+)", done.stdout, flags=re.MULTILINE) == ["fit", "evaluate", "export", "page"]
    table = done.stdout[done.stdout.index("where the time went") :]
    seconds = [int(number) for number in re.findall(r"^ .*? {2,}(\d+) *$", table, flags=re.MULTILINE)]
    assert len(seconds) == 9
    assert abs(seconds[-1] - sum(seconds[:-1])) <= 4  # each is rounded
    assert "itda decompose --dictionary run --text" in table
    assert {path.suffix for path in (tmp_path / "run").iterdir()} >= {".html", ".json", ".yaml"}
    assert (tmp_path / "run" / "export" / "sae_weights.safetensors").exists()
    assert not re.search("Tip:|litmodels|litlogger|GPU available|TPU available", done.stderr)


def test_its_settings_are_options_of_the_data() -> None:
    data = {name.removeprefix("data."): value for name, value in FIT.items() if name.startswith("data.")}
    assert ActivationsDataModule(**data).hook_names == ["blocks.14.hook_resid_post"]
