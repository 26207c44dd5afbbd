"""Settings and fixtures of all tests: nothing reaches the network, property tests draw the same examples on every run.

``HYPOTHESIS_PROFILE`` sets the examples per property: ``check`` (5), ``quick`` (25, the default) or ``nightly`` (100).
"""

import os
import tempfile

# Before anything imports `huggingface_hub`, `datasets` or `wandb`, which read these once.
_datasets_cache = tempfile.TemporaryDirectory(prefix="itda-datasets-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_CACHE": _datasets_cache.name,
    "TOKENIZERS_PARALLELISM": "false",
    "WANDB_MODE": "offline",
}
if not os.path.exists("/dev/nvidiactl"):  # noqa: PTH110  nothing is imported before this is set
    os.environ["TRITON_INTERPRET"] = "1"

import json  # noqa: E402
import re  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402

import jaxtyping  # noqa: E402
import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from itda_lightning.activations.bundled import resolve  # noqa: E402
from tests.browser import browser  # noqa: E402, F401  a fixture
from tests.comparisons import config_of, data_section, on_disk  # noqa: E402, F401  fixtures
from tests.runs import tiny_run, tiny_run_of_two  # noqa: E402, F401  fixtures
from tests.tiny_model import save_tokenizer, save_weights  # noqa: E402

for profile, examples in {"check": 5, "quick": 25, "nightly": 100}.items():
    settings.register_profile(profile, deadline=None, derandomize=True, max_examples=examples)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


# Rooms whose tests run whole fits. They start first, so that no worker is left alone with a long file at the end.
LONG_ROOMS = ("doors", "across_models", "activations", "fitting", "comparison", "evaluation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the tests that run the bundled model, then with the long rooms."""

    def place(item: pytest.Item) -> tuple[bool, int]:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        rank = LONG_ROOMS.index(room) if room in LONG_ROOMS else len(LONG_ROOMS)
        return item.get_closest_marker("slow") is None, rank

    items.sort(key=place)


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
