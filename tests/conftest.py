"""Settings of all tests: nothing reaches the network, property tests draw the same examples on every run.

``HYPOTHESIS_PROFILE`` sets the examples per property: ``check`` (5), ``quick`` (15, the default) or ``nightly`` (100).
"""

import atexit
import gc
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

from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

for profile, examples in {"check": 5, "quick": 15, "nightly": 100}.items():
    settings.register_profile(profile, deadline=None, derandomize=True, max_examples=examples)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def pytest_configure(config: pytest.Config) -> None:
    """Import the fixtures if tests run in this process; one that hands tests out to workers need not wait for them.

    Nothing of what is imported is garbage: a quarter of the time to import it would go into the search for some.
    """
    if not config.getoption("numprocesses", None) or hasattr(config, "workerinput"):
        gc.disable()
        config.pluginmanager.import_plugin("tests.fixtures")


def pytest_collection_finish() -> None:
    """Look for garbage from here on, but not among what was imported and collected, until the interpreter ends."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)


# Files that start first. One compiles the loops, for half a minute, and all others find them; pages need none of them.
FIRST_FILES = (
    "doors/test_end_to_end.py",
    "report/test_dashboard_browser.py",
    "house/test_readme.py",
    "report/test_browser.py",
    "house/test_examples.py",  # compiles them in `make check`
)
# Rooms whose tests run whole fits. They come next, so that no worker is left alone with a long file at the end.
LONG_ROOMS = ("doors", "across_models", "activations", "fitting", "comparison", "evaluation")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the first files, then with the tests that run the bundled model, then with the long rooms."""

    def place(item: pytest.Item) -> tuple[int, bool, int]:
        file = item.path.relative_to(Path(__file__).parent)
        first = FIRST_FILES.index(file.as_posix()) if file.as_posix() in FIRST_FILES else len(FIRST_FILES)
        rank = LONG_ROOMS.index(file.parts[0]) if file.parts[0] in LONG_ROOMS else len(LONG_ROOMS)
        return first, item.get_closest_marker("slow") is None, rank

    items.sort(key=place)
