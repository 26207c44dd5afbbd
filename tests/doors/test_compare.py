"""The compare command: its options, what it prints and how it ends."""

import logging

import pytest
import yaml

from itda_lightning import compare
from itda_lightning.compare import main
from tests.comparisons import PCA, TRAIN
from tests.processes import run_python


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"entries": [{"name": "A", "fit": {"max_atom": 3}}]}, "max_atom"),
        ({"entries": [{"name": "A", "train": TRAIN | {"architecture": "gated"}}]}, "gated"),
        ({"data": {"modle": "x"}}, "modle"),
    ],
)
def test_what_does_not_parse_ends_with_exit_code_2(config_of, tmp_path, capsys, changes, text):
    config = config_of(tmp_path / "out", {"A": PCA})
    content = yaml.safe_load(config.read_text())
    changes = {key: content[key] | value if key == "data" else value for key, value in changes.items()}
    config.write_text(yaml.safe_dump(content | changes))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(config)])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_results_are_logged_to_wandb_if_a_project_is_given(config_of, tmp_path, monkeypatch, capsys):
    logged = []
    monkeypatch.setattr(compare, "log_comparison", lambda *args: logged.append(args))
    config, directory = config_of(tmp_path / "out", {"A": PCA}), tmp_path / "out"
    assert main(["--config", str(config)]) == 0
    assert logged == []
    assert main(["--config", str(config), "--wandb_project", "a project", "--title", "T"]) == 0
    ((comparison, project, place),) = logged
    assert (comparison.title, project, place) == ("T", "a project", directory)
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "taken over from an earlier run: A",
        f"page: {directory / 'comparison.html'}",
    ]


def test_bad_input_in_a_process_of_its_own(config_of, tmp_path):
    config = config_of(tmp_path / "out", {"A": {"load": str(tmp_path / "nowhere")}, "B": {"load": "a:b"}})
    done = run_python("-m", "itda_lightning.compare", "--config", config)
    assert (done.returncode, done.stdout) == (2, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: A: {tmp_path / 'nowhere'} does not exist: give a path")
    assert "; B: the release 'a' with sae_id 'b' cannot be loaded" in error
    assert "Traceback" not in done.stderr


@pytest.fixture(autouse=True)
def messages(caplog):
    """What the command logs reaches ``caplog``; its own settings of the logger do not outlive a test."""
    logger = logging.getLogger("itda_lightning")
    level = logger.level
    yield
    logger.setLevel(level)
