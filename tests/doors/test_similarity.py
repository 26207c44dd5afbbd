"""The similarity command: its options, its files, and the shipped configurations."""

import json
from pathlib import Path

import pytest
import yaml

from itda_lightning import InputError
from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.fitting.module import ITDA
from itda_lightning.results.as_json import from_json
from itda_lightning.results.model_similarity import ModelSimilarity
from itda_lightning.similarity import main, parse
from tests.across_models.study import FIT, HOOKS, data_of

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "similarity").glob("*.yaml"))


@pytest.fixture
def config(tiny_model_dir, prose_file, tmp_path) -> Path:
    content = {
        "models": [{"name": "tiny", "model": str(tiny_model_dir), "hook_names": HOOKS[:2]}],
        "data": data_of(prose_file, tmp_path / "cache"),
        "fit": FIT,
        "directory": str(tmp_path / "out"),
        "measures": ["jaccard", "cka"],
        "resamples": 3,
    }
    path = tmp_path / "similarity.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.filterwarnings("ignore")
def test_it_writes_results_and_a_page_and_says_where(config, tmp_path, capsys) -> None:
    results = main(["--config", str(config), "--title", "Two layers"])
    written = (tmp_path / "out" / "similarity.json").read_text()
    assert from_json(written, ModelSimilarity).measured[1] == from_json(written, ModelSimilarity).measured[1]
    assert json.loads(written)["results"]["atoms"] == results.atoms >= 10
    assert "<h1>Two layers</h1>" in (tmp_path / "out" / "similarity.html").read_text()
    printed = capsys.readouterr().out
    assert "Jaccard index over chance" in printed
    assert f"page: {tmp_path / 'out' / 'similarity.html'}" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--measures", "[cka, kernel]"], "measures must be some of"),
        (["--models", "[{name: A, run: x}]"], "'A' must have exactly one of run and model"),
        (["--orders", "-1"], "orders must be at least 0"),
        (["--fit.k", "0"], "model.k must be at least 1, got 0"),
        (["--data.holdout_fraction", "2"], "data.holdout_fraction must lie between 0 and 1"),
    ],
)
def test_what_is_out_of_range_is_refused(config, arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        main(["--config", str(config), *arguments])


def test_there_is_a_configuration_of_the_bundled_model() -> None:
    assert "smollm2-135m" in {path.stem for path in CONFIGS}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_parses_and_makes_its_parts(path) -> None:
    settings, data, fit = parse(["--config", str(path)])
    written = yaml.safe_load(path.read_text())
    assert [model.name for model in settings.models] == [model["name"] for model in written["models"]]
    assert {name: data[name] for name in written["data"]} == written["data"]
    assert settings.directory == written["directory"]
    for model in settings.models:
        made = ActivationsDataModule(**{**data, **model.of_the_model})
        assert made.hook_names == model.hook_names
    assert ITDA(**fit).hparams["max_atoms"] == written["fit"]["max_atoms"] < data["training_tokens"]
    assert fit["growth"] == "sequential"
    assert path.read_text().startswith("# "), "says what it is for"
