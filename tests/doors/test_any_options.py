"""Any value of any option of any command: refused in one line with exit code 2, or taken; either way at once.

The fields are the parser's own, and those of the settings nested in them, so that a new option is tested, too.
"""

import contextlib
import dataclasses
import importlib
import io
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import capture_parser

from itda_lightning import compare, fit, harvest, similarity
from itda_lightning.across_models.similarity_settings import ModelSettings
from itda_lightning.comparison.comparison_settings import (
    EntrySettings,
    FitSettings,
    KMeansSettings,
    PCASettings,
    RandomSettings,
)
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.machine.command_line import run_command
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.house.test_architecture import DOORS

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

# A finished run, whose model is on no machine: commands that load a dictionary stop there.
RUN = str(Path(__file__).parents[1] / "house" / "files_of_0_1_0" / "run")
DATA = {"data.model": "/proc/none/m", "data.hook_names": ["blocks.1.hook_resid_post"], "data.dataset": "/proc/none/d"}
TRAINED = {"architecture": "topk", "n_latents": 8, "k": 2}
MODELS = [{"name": "a", "model": "m", "hook_names": ["x"]}]
# Door -> options of a whole command line.
WHOLE: dict[str, dict[str, Any]] = {
    "fit": DATA,
    "harvest": DATA,
    "compare": DATA | {"entries": [{"name": "a", "pca": {}}], "directory": "out"},
    "similarity": {"data.dataset": "/proc/none/d", "models": MODELS, "directory": "out"},
    "evaluate": {"dictionary": RUN},
    "export": {"dictionary": RUN, "output": "o", "architecture": "topk"},
    "push": {"dictionary": RUN, "repository": "owner/name"},
    "decompose": {"dictionary": RUN, "text": "a text"},
    "steer": {"dictionary": RUN, "prompt": "a text", "add": {3: 1.0}},
    "page": {"dictionary": RUN},
    "neuronpedia": {"dictionary": RUN, "output": "o"},
    "delphi": {"dictionary": RUN, "output": "o"},
    "transfer": {"dictionary": RUN, "model": "/proc/none/m", "output": "o"},
    "diff": {"base": RUN, "other": RUN, "output": "o"},
}
# Door -> settings nested in an option: the option, the settings' class, and the option's value with one of its fields.
NESTED: dict[str, list[tuple[str, type, Callable[[dict[str, Any]], Any]]]] = {
    "fit": [("refine", RefinementSettings, lambda field: field)],
    "compare": [
        ("probes", ProbeSettings, lambda field: field),
        ("entries", EntrySettings, lambda field: [{"name": "a", "pca": {}} | field]),
        ("entries", FitSettings, lambda field: [{"name": "a", "fit": field}]),
        ("entries", RefinementSettings, lambda field: [{"name": "a", "fit": {"refine": field}}]),
        ("entries", RandomSettings, lambda field: [{"name": "a", "random": {"n_atoms": 3} | field}]),
        ("entries", KMeansSettings, lambda field: [{"name": "a", "kmeans": {"n_atoms": 3} | field}]),
        ("entries", PCASettings, lambda field: [{"name": "a", "pca": field}]),
        ("entries", TrainingSettings, lambda field: [{"name": "a", "train": TRAINED | field}]),
    ],
    "similarity": [("models", ModelSettings, lambda field: [MODELS[0] | field])],
}
# What mistakes look like, beside values of every type.
# fmt: off
MISTAKES = (
    "", " ", "nan", "-inf", "1e400", "9" * 5000, "1_000", "0x10", "true", "null", "[]", "[[]]", "{a: 1}", "{0}", "%s",
    "~nouser-at-all/x", "/proc/none/x", "a\0b", "x" * 300, "é" * 200, "\ud800", "\u202ex", "&a [*a]", "*x", "@x", "-",
    "'", "[" * 3000, "{a: 1, a: 2}", "!!python/object:os.system x", "cuda:99", "-1",
    -1, 0, 1, 2**31, 2**63, 2**70, 10**9, -0.5, 0.5, 1.5, float("nan"), float("inf"),
)
# fmt: on
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(MISTAKES)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)


def checked_fit(arguments: list[str]) -> None:
    """Parse and check the command line of a fit as the command does before it reads the data."""
    cli = fit.parse(arguments)
    cli.config_init["run"].checkpoint(cli.config_init["ckpt_path"])
    if cli.config_init["refine"] is not None:
        cli.config_init["refine"].check(cli.datamodule)


PARSERS: dict[str, Callable[[list[str]], object]] = {
    "fit": checked_fit,
    "harvest": harvest.parse,
    "compare": compare.parse,
    "similarity": similarity.parse,
}


def check_of(door: str) -> Callable[[list[str]], object]:
    """Return what parses and checks; the whole command where that loads nothing."""
    return PARSERS.get(door) or importlib.import_module(f"itda_lightning.{door}").main


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run in an empty directory, with wrong types reaching the code as outside of tests."""
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("elsewhere"))
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
    os.chdir(before)


def options(given: dict[str, Any]) -> list[str]:
    """Return a command line; values that are no text are written as JSON."""
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in given.items()]


def ended(door: str, arguments: list[str]) -> tuple[int, str]:
    """Return the exit code of a command line, and what it wrote to stderr, in less than a second of computing."""
    told, code, check, begun = io.StringIO(), 0, check_of(door), time.process_time()
    with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_command(lambda: check(arguments) and None)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
    assert time.process_time() - begun < 1
    return code, told.getvalue()


def fields_of(door: str) -> list[str]:
    """Return the names of a command's options."""
    parser = capture_parser(lambda: check_of(door)([]))
    names = [option for action in parser._actions for option in action.option_strings[-1:]]
    return [name.lstrip("-") for name in names if "help" not in name and name not in ("--config", "--print_config")]


def test_every_command_with_options_is_tested():
    # verify has paths only; demo runs other commands, doctor reads nothing that is given.
    assert {*WHOLE, "verify", "demo", "doctor"} == set(DOORS)


@pytest.mark.parametrize("arguments", [[], ["/proc/none/x"], ["a\0b"], ["~nouser-at-all/x"], ["x" * 300], ["a", "b"]])
def test_a_path_that_is_none_is_refused_in_one_line(arguments):
    code, told = ended("verify", arguments)
    assert (code, told.count("\n")) == (2, 1), told


@pytest.mark.parametrize("door", WHOLE)
def test_any_value_is_refused_in_one_line_or_taken(door):
    whole = WHOLE[door]
    with contextlib.suppress(AssertionError):  # the first one reads more files than others
        ended(door, [*options(whole), *(["--dictionary=nothing:there"] if door == "evaluate" else [])])
    code, told = ended(door, options(whole))
    assert code == (0 if door in PARSERS else 2), told
    ways: list[tuple[str, str | None, Callable[[dict[str, Any]], Any] | None]]
    ways = [(name, None, None) for name in fields_of(door)]
    ways += [
        (option, field.name, inside)
        for option, settings, inside in NESTED.get(door, [])
        for field in dataclasses.fields(settings)
    ]
    assert len(ways) >= 5

    @given(st.sampled_from(ways), VALUES, st.booleans())
    def ends_well(way: tuple, value: Any, in_file: bool) -> None:
        option, field, inside = way
        changed = value if field is None else inside({field: value})
        arguments = options(whole | {option: changed})
        if in_file and "\ud800" not in repr(value):
            *sections, name = option.split(".")
            content: dict[str, Any] = {name: changed}
            for section in reversed(sections):
                content = {section: content}
            Path("config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8", errors="surrogatepass")
            arguments = ["--config=config.yaml", *options({k: v for k, v in whole.items() if k != option})]
        code, told = ended(door, arguments)
        assert code in (0, 2), told
        assert code == 0 or (told.startswith("error: ") and told.count("\n") == 1 and told.endswith("\n")), told

    ends_well()
