"""The compare command: its options, what it prints and how it ends."""

import logging
import shutil
from pathlib import Path

import pytest
import yaml
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import compare
from itda_lightning.compare import main
from itda_lightning.dictionary.copies import copied
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import Comparison
from tests.comparisons import PCA, TRAIN
from tests.processes import run_python
from tests.runs import CONTEXT, HOOK, OTHER_HOOK
from tests.tiny_model import WIDTH


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"entries": [{"name": "A", "fit": {"max_atom": 3}}]}, "max_atom"),
        ({"entries": [{"name": "A", "train": TRAIN | {"architecture": "gated"}}]}, "gated"),
        ({"data": {"modle": "x"}}, "modle"),
        ({"controls": ["pca", "means"]}, "means"),
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
    monkeypatch.setattr("itda_lightning.report.wandb_log.log_comparison", lambda *args: logged.append(args))
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


def saved_sae(path: Path, hook_name: str = HOOK, d_in: int = WIDTH, **metadata: object) -> str:
    """An SAE of others, which records no text."""
    config = TopKSAEConfig(d_in=d_in, d_sae=8, k=2)
    for name, value in ({"hook_name": hook_name} | metadata).items():
        config.metadata[name] = value
    TopKSAE(config).save_model(path)
    return str(path)


@pytest.fixture
def at_home(tmp_path, monkeypatch, isolated_cache):
    """An empty working directory, in which nothing was cached."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_fits_are_compared_by_their_paths_alone(at_home, tiny_run, tiny_run_of_two, capsys):
    places = [str(tiny_run), str(tiny_run_of_two)]
    assert main([*places, f"--loss_tokens={8 * CONTEXT}", "--latents=false", "--controls=[random]"]) == 0
    directory = at_home / "runs" / "compare-tiny-two"
    rows = from_json((directory / "comparison.json").read_text(), Comparison).rows
    n = load_dictionary(tiny_run).n_atoms
    assert [row.name for row in rows][:3] == ["tiny", "two", f"{n} random atoms"]
    for row in rows[:2]:
        assert (row.kind, row.failure) == ("itda", None)
        assert row.cost.activations_seen > 0
        assert (row.cost.seconds is None) is (row.name == "two")  # what one of two hook points took is not known
    page = (directory / "comparison.html").read_text()
    assert all(f'data-plot="{axis}-fvu"' in page for axis in ("pareto", "seen", "seconds"))
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {directory / 'comparison.html'}"


def test_a_repository_of_the_hub_is_a_place(hub, at_home, tiny_run, capsys):
    dictionary = load_dictionary(tiny_run)
    dictionary.push_to_hub("someone/dictionaries")
    # A repository leaves out the directories of the model and of the text.
    entry = '{"name": "theirs", "load": "hf://someone/dictionaries", "same_model": true}'
    options = [f"--loss_tokens={8 * CONTEXT}", "--latents=false", "--controls=false"]
    command = [str(tiny_run), f"--entries=[{entry}]", *options]
    assert main(command) == 0
    directory = at_home / "runs" / "compare-tiny"
    mine, theirs = from_json((directory / "comparison.json").read_text(), Comparison).rows
    assert (theirs.kind, theirs.failure) == ("itda", None)
    assert theirs.measures == mine.measures
    # Filled anew, it is another entry.
    assert copied(dictionary, k=dictionary.k - 1).push_to_hub("someone/dictionaries")
    assert main(command) == 0
    _, changed = from_json((directory / "comparison.json").read_text(), Comparison).rows
    assert changed.measures != mine.measures
    assert capsys.readouterr().out.splitlines()[-2] == "taken over from an earlier run: tiny"
    settings, _ = compare.parse([str(tiny_run), "hf://someone/dictionaries"])
    assert [place.name for place in settings.entries] == ["tiny", "hf://someone/dictionaries"]
    with pytest.raises(InputError, match="no such repository or owner"):
        compare.parse(["hf://someone/nothing"])


def test_data_and_directory_of_places_can_be_given(at_home, tiny_run, tiny_run_of_two, on_disk, data_section):
    """An SAE that was trained here records them in its configuration."""
    settings, data = compare.parse([str(on_disk["trained"]), str(tiny_run)])
    assert [(entry.name, entry.load) for entry in settings.entries] == [
        ("trained", str(on_disk["trained"])),
        ("tiny", str(tiny_run)),
    ]
    assert settings.directory == "runs/compare-trained-tiny"
    for name in ("model", "dataset", "context_size", "validation_tokens", "hook_names"):
        assert data.hparams[name] == data_section[name]
    assert data.hparams["device"] == "auto"
    # Another place or an option tells which of several hook points is meant.
    for more, hook_name in ((["--data.hook_names", f"[{OTHER_HOOK}]"], OTHER_HOOK), ([str(tiny_run)], HOOK)):
        _, data = compare.parse([str(tiny_run_of_two), *more])
        assert data.hook_names == [hook_name]
    options = {"data.validation_tokens": 256, "directory": "elsewhere", "entries": '[{"name": "P", "pca": {}}]'}
    changed, others = compare.parse([str(tiny_run), *(f"--{name}={value}" for name, value in options.items())])
    assert [entry.name for entry in changed.entries] == ["tiny", "P"]
    assert (changed.directory, others.hparams["validation_tokens"]) == ("elsewhere", 256)
    assert others.hparams["model"] == data_section["model"]


def test_a_config_with_data_of_its_own_is_as_it_is_written(at_home, config_of, tiny_run):
    config = config_of(at_home / "out", {"A": PCA}, {"context_size": 32})
    settings, data = compare.parse([str(tiny_run), "--config", str(config)])
    assert [entry.name for entry in settings.entries] == ["tiny", "A"]
    assert (settings.directory, data.hparams["context_size"]) == (str(at_home / "out"), 32)
    assert data.own_cache_dir is None


def test_the_cache_of_a_run_is_read_and_this_users_own_is_written(at_home, tiny_run, isolated_cache):
    _, data = compare.parse([str(tiny_run)])  # whose fit had none
    assert Path(data.hparams["cache_dir"]) == data.own_cache_dir == isolated_cache / "activations"
    _, data = compare.parse([str(tiny_run), "--data.cache_dir=mine"])
    assert (data.hparams["cache_dir"], data.own_cache_dir) == ("mine", None)


def test_places_are_called_by_what_tells_them_apart(at_home, tiny_run):
    for name in ("a/run", "b/run"):
        shutil.copytree(tiny_run, at_home / name)
    places = ["a/run", f"b/run/dictionaries/{HOOK}", "gpt2-small-res-jb:blocks.8.hook_resid_pre"]
    settings, _ = compare.parse(places)
    assert [entry.name for entry in settings.entries] == ["a/run", "b/run", places[2]]
    assert settings.directory == "runs/compare-a-run-b-run-gpt2-small-res-jb-blocks-8-hook-resid-pre"[:73].rstrip("-")


@pytest.mark.parametrize(
    ("places", "text"),
    [
        (["nowhere", "RUN"], "^nowhere does not exist: give a path, or release:sae_id of a pretrained SAE$"),
        (["RUN", "nowhere"], "^nowhere: nowhere does not exist: give a path, or release:sae_id of a pretrained SAE$"),
        (["RUN", "HOOK"], f"^hook: its hook point is '{OTHER_HOOK}', not '{HOOK}'$"),
        (["RUN", "WIDTH"], f"^width: it has d_in 48, the activations at {HOOK} have {WIDTH} dimensions$"),
        (
            ["RUN", "MODEL"],
            "^model: it is of the model 'gpt2', not '.*' \\(if they are the same, set same_model: true\\)$",
        ),
        (["HOOK", "WIDTH"], f"'{HOOK}', not '{OTHER_HOOK}': compare entries of one hook point$"),
        (["MODEL", "WIDTH"], "^nothing says which model and text to compare on, .*model and .*width record none: give"),
        (["RUN", "RUN"], "^.*tiny is given twice: an entry is compared with others$"),
        (["TWO"], r"^.*two holds dictionaries of several hook points: give --data.hook_names, one of \['blocks.0"),
    ],
)
def test_places_that_cannot_be_compared(at_home, tiny_run, tiny_run_of_two, places, text):
    where = {"RUN": str(tiny_run), "TWO": str(tiny_run_of_two)}
    where["HOOK"] = saved_sae(at_home / "hook", OTHER_HOOK)
    where["WIDTH"] = saved_sae(at_home / "width", d_in=48)
    where["MODEL"] = saved_sae(at_home / "model", model_name="gpt2")
    with pytest.raises(InputError, match=text) as error:
        main([where.get(place, place) for place in places])
    assert "\n" not in str(error.value)
    assert not (at_home / "runs").exists()


@pytest.fixture(autouse=True)
def messages(caplog):
    """What the command logs reaches ``caplog``; its own settings of the logger do not outlive a test."""
    logger = logging.getLogger("itda_lightning")
    level = logger.level
    yield
    logger.setLevel(level)
