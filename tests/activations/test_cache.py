"""The cache on disk: read instead of the model, the same activations, and a name for every setting."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import load_from_disk
from safetensors.torch import load_file

from itda_lightning.activations.batches import ActivationBatch, ActivationLoader
from itda_lightning.activations.cache import cache_bytes
from tests.activations.conftest import HOOK, MakeData
from tests.tiny_model import save_weights


def batches(loader: ActivationLoader) -> list[ActivationBatch]:
    return list(loader)


def assert_identical(some: list[ActivationBatch], others: list[ActivationBatch]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        assert one.table.equal(other.table)
        assert one.activations.keys() == other.activations.keys()
        assert all(one.activations[hook].equal(other.activations[hook]) for hook in one.activations)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch):
    """Return a function that forbids loading the language model from then on."""

    def forbid() -> None:
        def refuse(*args: Any) -> None:
            raise AssertionError("the language model was loaded")

        monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", refuse)

    return forbid


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_second_run_reads_the_cache_and_not_the_model(
    make_data: MakeData, tmp_path: Path, no_model, caplog: pytest.LogCaptureFixture, dtype: str
) -> None:
    caplog.set_level(logging.INFO, "itda_lightning")
    settings: dict[str, Any] = {"cache_dir": str(tmp_path), "cache_dtype": dtype}
    first = make_data(**settings)
    first.prepare_data()
    assert "harvesting 2,240 tokens (train) into" in caplog.text
    assert first.harvested_tokens == 2240 + 512
    assert first.harvest_seconds > 0
    train, val = batches(first.train_dataloader()), batches(first.val_dataloader())

    no_model()
    caplog.clear()
    second = make_data(**settings)
    second.prepare_data()
    assert f"reading cached activations of 2,240 tokens (train) from {tmp_path}" in caplog.text
    assert "reading cached activations of 512 tokens (heldout)" in caplog.text
    assert_identical(batches(second.train_dataloader()), train)
    assert_identical(batches(second.val_dataloader()), val)
    assert second.widths == {HOOK: 32}
    assert (second.harvested_tokens, second.harvest_seconds) == (0, 0.0)
    assert second.calibration_batch(200).activations[HOOK].shape[1] == 32


@pytest.mark.parametrize("model_dtype", ["float32", "bfloat16"])
def test_what_is_read_is_what_the_model_gave_in_the_dtype_of_the_cache(
    make_data: MakeData, tmp_path: Path, model_dtype: str
) -> None:
    settings: dict[str, Any] = {"model_dtype": model_dtype, "hook_names": [HOOK, "blocks.0.mlp.hook_post"]}
    settings |= {"training_tokens": 70 * 16, "validation_tokens": 8 * 16}
    live = make_data(**settings)
    given = {split: batches(getattr(live, split)()) for split in ("train_dataloader", "val_dataloader")}
    for dtype in ("float32", "float16", "bfloat16"):
        cached = make_data(cache_dir=str(tmp_path), cache_dtype=dtype, **settings)
        cached.prepare_data()
        for split, expected in given.items():
            for ours, theirs in zip(getattr(cached, split)(), expected, strict=True):
                assert ours.table.equal(theirs.table)
                for hook, values in theirs.activations.items():
                    assert ours.activations[hook].dtype == torch.float32
                    assert ours.activations[hook].equal(values.to(getattr(torch, dtype)).float())


def test_files_hold_token_ids_settings_and_sources(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(cache_dir=str(tmp_path))
    data.prepare_data()
    cache, rows = data.cache("train"), data.rows("train")
    assert cache is not None
    saved = load_from_disk(str(cache.path))
    assert saved.column_names == [HOOK, "token_ids"]
    assert saved.features["token_ids"].feature.dtype == "int32"
    assert torch.tensor(saved["token_ids"][:]).equal(rows.tokens[:, 1:])
    sources = load_file(cache.path / "sources.safetensors")
    assert all(values.equal(getattr(rows, name)) for name, values in sources.items())
    assert sorted(sources) == ["document", "end", "kept", "start", "tokens"]
    settings = json.loads((cache.path / "cache.json").read_text())
    assert settings == cache.settings
    assert settings["model"]["loader"] == "bridge"
    files = sorted(path.name for path in cache.path.iterdir())
    assert files[1:5] == ["checksums.xxh128", *(f"data-0000{i}-of-00003.arrow" for i in range(3))]


def test_the_size_is_about_the_size_on_disk(make_data: MakeData, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        data = make_data(cache_dir=str(tmp_path), cache_dtype=dtype)
        data.prepare_data()
        cache = data.cache("train")
        assert cache is not None
        on_disk = sum(path.stat().st_size for path in cache.path.glob("*.arrow"))
        assert on_disk == pytest.approx(cache_bytes(cache.rows, 32, cache.dtype), rel=0.2)


CHANGES: list[dict[str, Any]] = [
    {"hook_names": ["blocks.0.hook_resid_post"]},
    {"hook_names": [HOOK, "blocks.0.hook_resid_post"]},
    {"loader": "huggingface"},
    {"model_dtype": "bfloat16"},
    {"cache_dtype": "float16"},
    {"cache_dtype": "bfloat16"},
    {"context_size": 8},
    {"packing": "one_per_document", "training_tokens": 480},
    {"prepend_bos": False},
    {"prepend_bos": False, "exclude_first_position": False},
    {"exclude_first_position": False, "exclude_special_tokens": False},
    {"training_tokens": 1600},
    {"seed": 1},
    {"shuffle": False},
    {"holdout_fraction": 0.2},
]
# With BOS excluded as a special token, position 0 is left out either way.
NO_CHANGES: list[dict[str, Any]] = [
    {"batch_size": 7},
    {"model_batch_size": 3},
    {"device": "auto"},
    {"exclude_first_position": False},
]


def test_every_setting_that_changes_activations_has_another_cache(
    make_data: MakeData, tiny_model_dir: Path, prose: list[str], tmp_path: Path
) -> None:
    def path(**changes: Any) -> Path:
        cache = make_data(**({"cache_dir": str(tmp_path)} | changes)).cache("train")
        assert cache is not None
        return cache.path

    other_model = Path(shutil.copytree(tiny_model_dir, tmp_path / "other"))
    copied = Path(shutil.copytree(tiny_model_dir, tmp_path / "copied"))
    save_weights(other_model, seed=1)
    other_text = tmp_path / "other.jsonl"
    other_text.write_text("".join(json.dumps({"text": text + "!"}) + "\n" for text in prose))
    same_text = tmp_path / "same.json"
    same_text.write_text(json.dumps([{"id": i, "body": text} for i, text in enumerate(prose)]))

    changes = [*CHANGES, {"model": str(other_model)}, {"dataset": str(other_text)}]
    paths = {path(), *(path(**change) for change in changes)}
    assert len(paths) == 1 + len(changes)
    assert {part.parent for part in paths} == {tmp_path}
    same = [*NO_CHANGES, {"model": str(copied)}, {"dataset": str(same_text), "text_column": "body"}]
    assert {path(**change) for change in same} == {path()}
    assert make_data(cache_dir=str(tmp_path)).cache("heldout").path not in paths
    assert make_data().cache("train") is None


def test_the_weights_are_read_once_for_the_name(
    make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from itda_lightning.activations.models.model_name import LanguageModelName

    calls = []
    fingerprint = LanguageModelName.fingerprint
    monkeypatch.setattr(LanguageModelName, "fingerprint", lambda name: calls.append(name) or fingerprint(name))
    data = make_data(cache_dir=str(tmp_path))
    data.prepare_data()
    batches(data.train_dataloader())
    batches(data.val_dataloader())
    assert len(calls) == 1


def test_some_hook_points_of_a_finished_cache_are_a_cache(make_data: MakeData, tmp_path: Path, no_model) -> None:
    others = [f"blocks.{layer}.hook_resid_post" for layer in (0, 2)]
    alone, several = (
        make_data(cache_dir=str(tmp_path / name), hook_names=hooks)
        for name, hooks in (("alone", [HOOK]), ("several", [others[0], HOOK, others[1]]))
    )
    for data in (alone, several):
        data.prepare_data()
    no_model()
    (tmp_path / "several" / "no-cache").mkdir()
    (tmp_path / "several" / "no-cache" / "cache.json").write_text("[")
    one = make_data(cache_dir=str(tmp_path / "several"))
    assert one.cache("train").path == several.cache("train").path
    one.prepare_data()
    assert one.widths == {HOOK: 32}
    for found, expected in zip(one.train_dataloader(), alone.train_dataloader(), strict=True):
        assert list(found.activations) == [HOOK]
        torch.testing.assert_close(found.activations[HOOK], expected.activations[HOOK])
        assert torch.equal(found.table, expected.table)
    reordered = make_data(cache_dir=str(tmp_path / "several"), hook_names=[others[1], others[0]])
    assert list(reordered.stored("heldout").read(0, 1).activations) == [others[1], others[0]]
    # One more hook point, or a harvest that is not finished, is no such cache.
    assert make_data(cache_dir=str(tmp_path / "alone"), hook_names=[HOOK, others[0]]).stored("train") is None
    (several.cache("train").path / "state.json").unlink()
    assert make_data(cache_dir=str(tmp_path / "several")).stored("train") is None
