"""The README's example runs, its commands run, and they are the ones that CI runs."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests.processes import run_python

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_two_commands_are_make_targets_and_ci_runs_the_tests_by_one() -> None:
    commands = [block.strip() for block in blocks("bash")[:2]]
    assert commands == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    documents = ("README.md", "CONTRIBUTING.md", ".github/workflows/checks.yml", ".ci/run", ".pre-commit-config.yaml")
    for document in documents:
        for target in re.findall(r"\bmake ([a-z][a-z.]+)", (ROOT / document).read_text(encoding="utf-8")):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"{document}: there is no make {target}"
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    assert [line for line in ci if line.startswith("make")] == ["make test", "make lint", "make types"]


def test_the_demo_runs_the_commands_that_the_readme_shows() -> None:
    demo = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert demo is not None
    shown = set(re.findall(r"itda_lightning\.(\w+)", blocks("bash")[2]))
    assert set(re.findall(r"itda_lightning\.(\w+)", demo.group(1))) <= shown


@pytest.mark.slow
def test_the_python_example_runs(tmp_path: Path) -> None:
    (example,) = blocks("python")
    done = run_python("-c", example, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    expected = r"\[.+\] is explained first by the atom of \[(.+)\] in: .*\[\1\]"
    assert re.search(expected, done.stdout, flags=re.DOTALL), done.stdout


@pytest.mark.slow
def test_the_commands_run_one_after_another(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    lines = blocks("bash")[2].strip().splitlines()
    assert len(lines) == 7
    printed = ""
    for line in lines:
        python, *arguments = shlex.split(line)
        assert python == "python"
        done = run_python(*arguments, cwd=tmp_path)
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
