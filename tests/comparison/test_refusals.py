"""Configs that a comparison refuses, before anything is made, measured or written."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning.compare import main
from itda_lightning.comparison import candidates, side_by_side
from itda_lightning.comparison.bench import Bench
from itda_lightning.errors import InputError
from tests.comparisons import FIT, PCA, TRAIN
from tests.runs import CONTEXT, HOOK, OTHER_HOOK
from tests.tiny_model import WIDTH


def sae(path: Path, hook_name: str | None = HOOK, d_in: int = WIDTH, **metadata: object) -> dict[str, str]:
    config = TopKSAEConfig(d_in=d_in, d_sae=8, k=2)
    for name, value in ({"hook_name": hook_name} | metadata).items():
        config.metadata[name] = value
    TopKSAE(config).save_model(path)
    return {"load": str(path)}


@pytest.fixture
def refused(config_of, tmp_path, monkeypatch):
    """The text with which a config is refused; nothing is made, measured or written then."""

    def refuse(entries: dict[str, Any], data: dict[str, Any] | None = None, **others: Any) -> str:
        monkeypatch.setattr(candidates, "_make", pytest.fail)
        monkeypatch.setattr(Bench, "measure", pytest.fail)
        monkeypatch.setattr("itda_lightning.activations.cache.ActivationCache.fill", pytest.fail)
        directory = tmp_path / "out"
        with pytest.raises(InputError) as message:
            main(["--config", str(config_of(directory, entries, data, **others))])
        assert not directory.exists()
        return str(message.value)

    return refuse


def test_all_problems_of_all_entries_are_listed_at_once(refused, tmp_path, on_disk):
    shutil.copytree(on_disk["itda"], tmp_path / "unknown")
    config = tmp_path / "unknown" / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "from_nowhere"}))
    text = refused(
        {
            "Nowhere": {"load": str(tmp_path / "nowhere")},
            "Good": PCA,
            "Release": {"load": "gpt2-small-res-jb:blocks.8.hook_resid_pre"},
            "Hook": sae(tmp_path / "hook", OTHER_HOOK),
            "Width": sae(tmp_path / "width", d_in=48, prepend_bos=False),
            "Architecture": {"load": str(tmp_path / "unknown")},
            "Few": {"fit": FIT | {"tokens": CONTEXT - 1}},
            "Many": {"random": {"n_atoms": 5, "tokens": 120 * CONTEXT + 1}},
        }
    )
    problems = text.split("; ")
    assert [problem.partition(": ")[0] for problem in problems] == [
        *("Nowhere", "Release", "Hook", "Width", "Width", "Architecture", "Few", "Many")
    ]
    for part in (
        "nowhere does not exist: give a path, or release:sae_id",
        "the release 'gpt2-small-res-jb' with sae_id 'blocks.8.hook_resid_pre' cannot be loaded",
        f"its hook point is '{OTHER_HOOK}', not '{HOOK}'",
        f"it has d_in 48, the activations at {HOOK} have {WIDTH} dimensions",
        "its prepend_bos is False, that of the data is True",
        "unknown cannot be loaded as a SAELens SAE (KeyError: 'from_nowhere')",
        "tokens must lie between one row of 16 and the 1,920 training tokens of the data, got 15",
        "tokens must lie between one row of 16 and the 1,920 training tokens of the data, got 1,921",
    ):
        assert part in text


def test_tokens_beyond_the_first_of_the_data_are_refused(refused):
    text = refused({"A": {"train": TRAIN | {"tokens": 641}}}, {"first_tokens": 640})
    assert text.startswith("A: tokens must lie between one row of 16 and the 640 training tokens of the data, got 641")


@pytest.mark.parametrize(
    ("entries", "others", "text"),
    [
        ({"A": PCA | {"fit": FIT}}, {}, r"must have exactly one of .* got \['fit', 'pca'\]"),
        ({"A": {}}, {}, r"must have exactly one of .* got \[\]"),
        ({"A": {"fit": FIT | {"k": 0}}}, {}, r"^model\.k must be at least 1, got 0$"),
        (
            {"A": {"fit": FIT | {"refine": {"anchor": -0.5}}}},
            {},
            r"^A: refine\.anchor must lie between 0 and 1, got -0\.5",
        ),
        (
            {"A": {"train": TRAIN | {"k": 99}}},
            {},
            r"^training\.k must lie between 1 and 24, got 99: a code",
        ),
        ({"A": PCA}, {"loss_tokens": 0}, "loss_tokens must be at least 1, got 0"),
        ({"A": PCA}, {"probes": {"ks": [0]}}, "^probes have at least one latent"),
        ({"A": PCA}, {"data": {"hook_names": [HOOK, OTHER_HOOK]}}, "a comparison is of one hook point"),
        (
            {"A": PCA},
            {"data": {"validation_tokens": CONTEXT}},
            "gives tokens of 1 document only, so no standard error can be",
        ),
        ({"A": PCA}, {"data": {"context_size": 1}}, r"data\.context_size must be at least 4, got 1"),
        ({"A": PCA}, {"data": {"model": "/no/model"}}, "cannot load the tokenizer of the language model '/no/model'"),
        ({"A": PCA}, {"data": {"cache_dir": None}}, r"more than once to make A: set data\.cache_dir"),
    ],
)
def test_bad_input_is_refused(refused, entries, others, text):
    with pytest.raises(InputError, match=text):
        raise InputError(refused(entries, **others))


def test_two_entries_of_one_name_are_refused(config_of, tmp_path):
    config = config_of(tmp_path / "out", {"A": PCA})
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(content | {"entries": content["entries"] * 2}))
    with pytest.raises(InputError, match=r"different names, but several are called \['A'\]: rename them"):
        main(["--config", str(config)])


def test_without_a_cache_what_is_loaded_has_no_controls(refused, config_of, on_disk, tmp_path):
    entries, no_cache = {"A run": {"load": str(on_disk["run"])}}, {"cache_dir": None}
    assert "to make the controls of A run: set data.cache_dir" in refused(entries, no_cache)


def test_probes_without_sae_probes_are_refused(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_probes", None)
    monkeypatch.setitem(sys.modules, "sae_probes.utils_data", None)
    assert "sparse probing needs sae-probes, which cannot be imported" in refused({"A": PCA}, probes={})


def test_nothing_is_harvested_for_what_is_refused(refused, tmp_path):
    text = refused({"A": {"load": str(tmp_path / "nowhere")}}, {"cache_dir": str(tmp_path / "cache")})
    assert "does not exist" in text
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("place", ["/proc", "a file/out"])
def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_made(config_of, tmp_path, monkeypatch, place):
    (tmp_path / "a file").touch()
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    monkeypatch.setattr(side_by_side, "make_candidate", pytest.fail)
    config = config_of(tmp_path / place if "file" in place else Path(place), {"A": PCA})
    with pytest.raises(InputError, match=f"while writing into .*{place}"):
        main(["--config", str(config)])
