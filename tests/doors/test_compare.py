"""The compare command: what it makes, measures, keeps and takes over, and what it refuses before it begins."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from safetensors.torch import load_file, save_file

from itda_lightning import ActivationsDataModule, compare
from itda_lightning.compare import main
from itda_lightning.comparison import candidates, side_by_side
from itda_lightning.comparison.bench import Bench
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import MEASURES, Comparison, Row
from itda_lightning.saelens import save_export
from itda_lightning.saelens.training import train_sae
from itda_lightning.saelens.training_settings import TrainingSettings
from tests.runs import CONTEXT, HOOK, OTHER_HOOK, K
from tests.tiny_model import WIDTH

FIT = {"max_atoms": 30, "k": K, "pursuit": "omp", "threshold": 0.7}
TRAIN = {"architecture": "topk", "n_latents": 24, "k": 3, "samples": 1024, "batch_size": 256}


@pytest.fixture(scope="module")
def data_section(tiny_model_dir, prose_file, tmp_path_factory) -> dict[str, Any]:
    section = {
        "model": str(tiny_model_dir),
        "hook_names": [HOOK],
        "dataset": str(prose_file),
        "device": "cpu",
        "context_size": CONTEXT,
        "training_tokens": 120 * CONTEXT,
        "validation_tokens": 32 * CONTEXT,
        "cache_dir": str(tmp_path_factory.mktemp("cache")),
    }
    ActivationsDataModule(**section).prepare_data()
    return section


@pytest.fixture(scope="module")
def on_disk(tiny_run, data_section, tmp_path_factory) -> dict[str, Path]:
    """What can be loaded; ``nan`` is an SAE whose weights are lost."""
    root = tmp_path_factory.mktemp("on_disk")
    dictionary = load_dictionary(tiny_run)
    for architecture in ("itda", "matching_pursuit"):
        save_export(dictionary, root / architecture, architecture)
    train_sae(TrainingSettings(**TRAIN), ActivationsDataModule(**data_section), HOOK, root / "trained")
    shutil.copytree(root / "trained", root / "nan")
    weights = root / "nan" / "sae_weights.safetensors"
    save_file({name: torch.full_like(value, torch.nan) for name, value in load_file(weights).items()}, weights)
    return {"run": tiny_run} | {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def config_of(data_section, tmp_path_factory):
    """Writes a config and returns its path; ``entries`` are name -> settings."""

    def write(directory: Path, entries: dict[str, Any], data: dict[str, Any] | None = None, **others: Any) -> Path:
        content = {
            "data": data_section | (data or {}),
            "directory": str(directory),
            "loss_tokens": 8 * CONTEXT,
            "latents": False,
            "entries": [{"name": name, **settings} for name, settings in entries.items()],
        }
        path = tmp_path_factory.mktemp("config") / "compare.yaml"
        path.write_text(yaml.safe_dump(content | others))
        return path

    return write


@pytest.fixture(scope="module")
def all_ways(on_disk) -> dict[str, Any]:
    names = {"A run": "run", "As itda": "itda", "As matching pursuit": "matching_pursuit", "Trained before": "trained"}
    return {name: {"load": str(on_disk[kind])} for name, kind in names.items()} | {
        "ITDA, OMP": {"fit": FIT},
        "TopK": {"train": TRAIN | {"seed": 1}},
    }


@pytest.fixture(scope="module")
def finished(config_of, all_ways, tmp_path_factory) -> tuple[Path, Path]:
    """Directory and config of a comparison that ran once."""
    directory = tmp_path_factory.mktemp("comparison") / "deep" / "out"
    config = config_of(directory, all_ways, latents=True, atoms_shown=12)
    assert main(["--config", str(config)]) == 0
    return directory, config


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished[0], tmp_path / "out")


def written(directory: Path) -> Comparison:
    return from_json((directory / "comparison.json").read_text(), Comparison)


def test_all_kinds_of_entries_are_measured_and_controls_are_added_once(finished, all_ways, on_disk):
    rows = {row.name: row for row in written(finished[0]).rows}
    assert list(rows) == [*all_ways, "random, for A run", "PCA, 4 components", "random, for ITDA, OMP"]
    assert [row.kind for row in rows.values()] == ["itda"] * 3 + ["sae", "itda", "sae", "random", "pca", "random"]
    n = load_dictionary(on_disk["run"]).n_atoms
    widths = [n, n, n, 24, rows["ITDA, OMP"].width, 24, n, 8, rows["ITDA, OMP"].width]
    assert [row.width for row in rows.values()] == widths
    for row in rows.values():
        assert row.failure is None
        assert not row.reused
        assert tuple(row.measures) == MEASURES
        assert row.cost.encoded_per_second > 0
        assert row.cost.harvest_seconds > 0
        assert len(row.densities) == row.width
    assert len({row.tokens_hash for row in rows.values()}) == 1
    assert len({row.identity for row in rows.values()}) == len(rows)
    assert rows["As itda"].measures == rows["A run"].measures
    assert rows["random, for ITDA, OMP"].settings["pursuit"] == "omp"
    assert rows["TopK"].curve[-1][0] == rows["Trained before"].curve[-1][0] == 1024


def test_what_is_written(finished, all_ways, tiny_model_dir):
    directory, _ = finished
    comparison = written(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["comparison.html", "comparison.json", "made", "rows"]
    assert len(list((directory / "made").iterdir())) == 5
    on_disk = [from_json(path.read_text(), Row) for path in (directory / "rows").iterdir()]
    assert {row.name: row for row in on_disk} == {row.name: row for row in comparison.rows}
    page = (directory / "comparison.html").read_text()
    assert all(name in page for name in all_ways)
    assert comparison.title == f"{tiny_model_dir} at {HOOK}"
    assert comparison.facts["loss tokens"] == "128"
    assert comparison.facts["training tokens"] == "1,920"
    assert comparison.facts["held-out tokens' hash"] == comparison.rows[0].tokens_hash
    assert comparison.facts["dataset"].endswith(")")


def test_atoms_of_the_first_itda_are_shown_beside_saes_first(finished):
    latents = written(finished[0]).latents
    assert latents.reference == "A run"
    assert len(latents.atoms) == 12
    assert [other.name for other in latents.others] == ["Trained before", "TopK", "As itda", "As matching pursuit"]
    assert all(source is not None for source in latents.sources)


def test_figures_are_there_though_the_latents_fail(copied, config_of, on_disk, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no latents today")

    monkeypatch.setattr("itda_lightning.comparison.side_by_side.latent_view", fail)
    (copied / "comparison.html").unlink()
    with pytest.raises(RuntimeError, match="no latents today"):
        main(["--config", str(config_of(copied, {"A run": {"load": str(on_disk["run"])}}, latents=True))])
    assert written(copied).rows[0].name == "A run"
    assert "A run" in (copied / "comparison.html").read_text()


@pytest.fixture
def nothing_is_measured(monkeypatch):
    """Any model, any making and any measuring fails the test."""
    monkeypatch.setattr("itda_lightning.activations.model_and_rows.LanguageModel", pytest.fail)
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    monkeypatch.setattr(Bench, "measure", pytest.fail)


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_second_run_takes_over_all_rows_and_says_so(copied, config_of, all_ways, finished, capsys):
    assert main(["--config", str(config_of(copied, all_ways))]) == 0
    out = capsys.readouterr().out
    first, second = written(finished[0]), written(copied)
    assert f"taken over from an earlier run: {', '.join(row.name for row in first.rows)}" in " ".join(out.split())
    assert out.splitlines()[-1] == f"page: {copied / 'comparison.html'}"
    assert all(row.reused for row in second.rows)
    for one, other in zip(first.rows, second.rows, strict=True):
        assert (one.name, one.measures, one.cost) == (other.name, other.measures, other.cost)
    assert second.latents is None


@pytest.mark.usefixtures("nothing_is_measured")
def test_a_row_is_taken_over_under_another_name(copied, config_of, on_disk):
    config = config_of(copied, {"Renamed ⚑": {"load": str(on_disk["run"])}, "Also": {"fit": FIT}}, controls=False)
    assert main(["--config", str(config)]) == 0
    assert [(row.name, row.reused) for row in written(copied).rows] == [("Renamed ⚑", True), ("Also", True)]


@pytest.mark.parametrize("changes", [{"loss_tokens": 10 * CONTEXT}, {"data": {"validation_tokens": 30 * CONTEXT}}])
def test_other_tokens_are_measured_again_but_nothing_is_made_again(copied, config_of, all_ways, changes, monkeypatch):
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    before = {row.name: row for row in written(copied).rows}
    assert main(["--config", str(config_of(copied, all_ways, **changes))]) == 0
    for row in written(copied).rows:
        assert not row.reused
        assert row.tokens_hash != before[row.name].tokens_hash
        of_losses, of_all = (
            row.measures[name] != before[row.name].measures[name] for name in ("kl_div_with_sae", "fvu")
        )
        assert (of_losses, of_all) == ((True, False) if "loss_tokens" in changes else (False, True))


def test_a_row_that_cannot_be_read_is_measured_again(copied, config_of, on_disk, caplog):
    (path,) = (copied / "rows").glob("a-run-*.json")
    whole = from_json(path.read_text(), Row)
    path.write_text(path.read_text()[:200])
    assert main(["--config", str(config_of(copied, {"A run": {"load": str(on_disk["run"])}}, controls=False))]) == 0
    assert f"{path} cannot be taken over" in caplog.text
    (row,) = written(copied).rows
    assert (row.reused, row.measures) == (False, whole.measures)
    assert from_json(path.read_text(), Row) == row


def test_an_entry_that_fails_costs_no_other(config_of, on_disk, tmp_path, capsys, monkeypatch, caplog):
    make = candidates._make

    def sometimes(wanted, *args):
        if wanted.name == "Broken":
            raise RuntimeError("the disk caught fire")
        return make(wanted, *args)

    monkeypatch.setattr(candidates, "_make", sometimes)
    entries = {
        "Lost": {"load": str(on_disk["nan"])},
        "Broken": {"pca": {"k": 5}},
        "Too many": {"random": {"n_atoms": 10**6}},
        "Whole": {"load": str(on_disk["trained"])},
    }
    assert main(["--config", str(config_of(tmp_path / "out", entries))]) == 1
    rows = {row.name: row for row in written(tmp_path / "out").rows}
    assert list(rows) == list(entries)
    assert "make the model's loss infinite or undefined: check its weights" in rows["Lost"].failure
    assert rows["Broken"].failure == "RuntimeError: the disk caught fire"
    assert rows["Too many"].failure.startswith("n_atoms must lie between 1 and ")
    assert [row.kind for row in rows.values()] == ["sae", "pca", "random", "sae"]
    assert rows["Whole"].failure is None
    assert rows["Whole"].value("fvu") < 1.5
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == "3 of 4 entries failed: Lost, Broken, Too many"
    assert "the disk caught fire" in (tmp_path / "out" / "comparison.html").read_text()
    assert [path.name.split("-")[0] for path in (tmp_path / "out" / "rows").iterdir()] == ["whole"]
    assert "Traceback" in caplog.text, "what is nobody's fault shows where it came from"
    monkeypatch.undo()
    assert main(["--config", str(config_of(tmp_path / "out", entries | {"Too many": {"random": {"n_atoms": 5}}}))]) == 1
    again = written(tmp_path / "out").rows
    assert [(row.failure is None, row.reused) for row in again] == [
        (False, False),
        (True, False),
        (True, False),
        (True, True),
    ]


def test_controls_of_other_tokens_have_names_of_their_own(config_of, tmp_path):
    some = {"A": {"fit": FIT | {"tokens": 640}}, "B": {"fit": FIT}, "PCA, 4 components": {"pca": {"k": 2}}}
    assert main(["--config", str(config_of(tmp_path / "out", some))]) == 0
    rows = written(tmp_path / "out").rows
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    controls = [(row.kind, row.settings.get("tokens")) for row in rows[3:]]
    assert controls == [("random", "640"), ("pca", "640"), ("random", None), ("pca", None)]


def test_a_control_that_was_asked_for_is_not_added(config_of, tmp_path):
    entries = {"A": {"fit": FIT}, "My own": {"pca": {"k": K}}}
    assert main(["--config", str(config_of(tmp_path / "out", entries))]) == 0
    assert [row.name for row in written(tmp_path / "out").rows] == ["A", "My own", "random, for A"]


def sae(path: Path, hook_name: str | None = HOOK, d_in: int = WIDTH, **metadata: object) -> dict[str, str]:
    config = TopKSAEConfig(d_in=d_in, d_sae=8, k=2)
    for name, value in ({"hook_name": hook_name} | metadata).items():
        config.metadata[name] = value
    TopKSAE(config).save_model(path)
    return {"load": str(path)}


def test_an_sae_that_does_not_say_its_hook_point_is_of_the_one_compared(config_of, tmp_path):
    StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=8)).save_model(tmp_path / "sae")
    config = config_of(tmp_path / "out", {"A": {"load": str(tmp_path / "sae")}})
    assert main(["--config", str(config)]) == 0


def test_one_of_a_run_of_several_hook_points(config_of, tiny_run_of_two, tmp_path):
    config = config_of(tmp_path / "out", {"A": {"load": str(tiny_run_of_two)}}, controls=False)
    assert main(["--config", str(config)]) == 0
    (row,) = written(tmp_path / "out").rows
    assert row.width == load_dictionary(tiny_run_of_two, HOOK).n_atoms


@pytest.fixture
def refused(config_of, tmp_path, monkeypatch):
    """The text with which a config is refused; nothing is made, measured or written then."""

    def refuse(entries: dict[str, Any], data: dict[str, Any] | None = None, **others: Any) -> str:
        monkeypatch.setattr(candidates, "_make", pytest.fail)
        monkeypatch.setattr(Bench, "measure", pytest.fail)
        monkeypatch.setattr("itda_lightning.activations.cache.ActivationCache.fill", pytest.fail)
        directory = tmp_path / "out"
        with pytest.raises(InputError) as told:
            main(["--config", str(config_of(directory, entries, data, **others))])
        assert not directory.exists()
        return str(told.value)

    return refuse


GOOD = {"pca": {"k": 2}}


def test_all_that_is_wrong_with_all_entries_is_told_at_once(refused, tmp_path, on_disk):
    shutil.copytree(on_disk["itda"], tmp_path / "unknown")
    config = tmp_path / "unknown" / "cfg.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"architecture": "from_nowhere"}))
    text = refused(
        {
            "Nowhere": {"load": str(tmp_path / "nowhere")},
            "Good": GOOD,
            "Release": {"load": "gpt2-small-res-jb:blocks.8.hook_resid_pre"},
            "Hook": sae(tmp_path / "hook", OTHER_HOOK),
            "Width": sae(tmp_path / "width", d_in=48, prepend_bos=False),
            "Architecture": {"load": str(tmp_path / "unknown")},
            "Few": {"fit": FIT | {"tokens": CONTEXT - 1}},
            "Many": {"random": {"n_atoms": 5, "tokens": 120 * CONTEXT + 1}},
        }
    )
    problems = text.split("; ")
    assert [problem.partition(": ")[0] for problem in problems] == [
        *("Nowhere", "Release", "Hook", "Width", "Width", "Architecture", "Few", "Many")
    ]
    for part in (
        "nowhere does not exist: give a path, or release:sae_id",
        "the release 'gpt2-small-res-jb' with sae_id 'blocks.8.hook_resid_pre' is not to be had",
        f"its hook point is '{OTHER_HOOK}', not '{HOOK}'",
        f"it has d_in 48, the activations at {HOOK} have {WIDTH} dimensions",
        "its prepend_bos is False, that of the data is True",
        "unknown cannot be loaded as a SAELens SAE (KeyError: 'from_nowhere')",
        "tokens must lie between one row of 16 and the 1,920 training tokens of the data, got 15",
        "tokens must lie between one row of 16 and the 1,920 training tokens of the data, got 1,921",
    ):
        assert part in text


def test_tokens_beyond_the_first_of_the_data_are_refused(refused):
    text = refused({"A": {"train": TRAIN | {"tokens": 641}}}, {"first_tokens": 640})
    assert text.startswith("A: tokens must lie between one row of 16 and the 640 training tokens of the data, got 641")


@pytest.mark.parametrize(
    ("entries", "others", "text"),
    [
        ({"A": GOOD | {"fit": FIT}}, {}, r"must have exactly one of .* got \['fit', 'pca'\]"),
        ({"A": {}}, {}, r"must have exactly one of .* got \[\]"),
        ({"A": {"fit": FIT | {"k": 0}}}, {}, r"^model\.k must be at least 1, got 0$"),
        (
            {"A": {"fit": FIT | {"refine": {"anchor": 0.5}}}},
            {},
            r"^A: refine\.anchor must lie between 0\.8 and 1, got 0\.5",
        ),
        (
            {"A": {"train": TRAIN | {"k": 99}}},
            {},
            r"^training\.k must lie between 1 and 24, got 99: a code",
        ),
        ({"A": GOOD}, {"loss_tokens": 0}, "loss_tokens must be at least 1, got 0"),
        ({"A": GOOD}, {"probes": {"ks": [0]}}, "^probes have at least one latent"),
        ({"A": GOOD}, {"data": {"hook_names": [HOOK, OTHER_HOOK]}}, "a comparison is of one hook point"),
        ({"A": GOOD}, {"data": {"validation_tokens": CONTEXT}}, "held-out tokens of 1 document, so no error can be"),
        ({"A": GOOD}, {"data": {"context_size": 1}}, r"data\.context_size must be at least 4, got 1"),
        ({"A": GOOD}, {"data": {"model": "/no/model"}}, "cannot load the tokenizer of the language model '/no/model'"),
        ({"A": GOOD}, {"data": {"cache_dir": None}}, r"more than once to make A: set data\.cache_dir"),
    ],
)
def test_bad_input_is_refused(refused, entries, others, text):
    with pytest.raises(InputError, match=text):
        raise InputError(refused(entries, **others))


def test_two_entries_of_one_name_are_refused(config_of, tmp_path):
    config = config_of(tmp_path / "out", {"A": GOOD})
    content = yaml.safe_load(config.read_text())
    config.write_text(yaml.safe_dump(content | {"entries": content["entries"] * 2}))
    with pytest.raises(InputError, match=r"different names, but several are called \['A'\]: rename them"):
        main(["--config", str(config)])


def test_without_a_cache_what_is_loaded_has_no_controls(refused, config_of, on_disk, tmp_path):
    entries, no_cache = {"A run": {"load": str(on_disk["run"])}}, {"cache_dir": None}
    assert "to make the controls of A run: set data.cache_dir" in refused(entries, no_cache)


def test_without_a_cache_what_is_loaded_is_measured(config_of, on_disk, finished, tmp_path):
    entries = {"A run": {"load": str(on_disk["run"])}}
    config = config_of(tmp_path / "out", entries, {"cache_dir": None}, controls=False)
    assert main(["--config", str(config)]) == 0
    (row,) = written(tmp_path / "out").rows
    assert row.value("fvu") == pytest.approx(written(finished[0]).rows[0].value("fvu"), rel=1e-5)


def test_probes_without_sae_probes_are_refused(refused, monkeypatch):
    monkeypatch.setitem(sys.modules, "sae_probes", None)
    monkeypatch.setitem(sys.modules, "sae_probes.utils_data", None)
    assert "sparse probing needs sae-probes, which cannot be imported" in refused({"A": GOOD}, probes={})


def test_nothing_is_harvested_for_what_is_refused(refused, tmp_path):
    text = refused({"A": {"load": str(tmp_path / "nowhere")}}, {"cache_dir": str(tmp_path / "cache")})
    assert "does not exist" in text
    assert not (tmp_path / "cache").exists()


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
    config = config_of(tmp_path / "out", {"A": GOOD})
    content = yaml.safe_load(config.read_text())
    changes = {key: content[key] | value if key == "data" else value for key, value in changes.items()}
    config.write_text(yaml.safe_dump(content | changes))
    with pytest.raises(SystemExit) as ended:
        main(["--config", str(config)])
    assert ended.value.code == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["/proc", "a file/out"])
def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_made(config_of, tmp_path, monkeypatch, place):
    (tmp_path / "a file").touch()
    monkeypatch.setattr(candidates, "_make", pytest.fail)
    monkeypatch.setattr(side_by_side, "make_candidate", pytest.fail)
    config = config_of(tmp_path / place if "file" in place else Path(place), {"A": GOOD})
    with pytest.raises(InputError, match=f"while writing into .*{place}"):
        main(["--config", str(config)])


def test_what_is_written_beside_the_page_for_wandb_is_asked_for(copied, config_of, on_disk, monkeypatch):
    logged = []
    monkeypatch.setattr(compare, "log_comparison", lambda *args: logged.append(args))
    entries = {"A run": {"load": str(on_disk["run"])}}
    main(["--config", str(config_of(copied, entries, controls=False))])
    assert logged == []
    main(["--config", str(config_of(copied, entries, controls=False, wandb_project="a project")), "--title", "T"])
    ((comparison, project, directory),) = logged
    assert (comparison.title, project, directory) == ("T", "a project", copied)


def test_bad_input_in_a_process_of_its_own(config_of, tmp_path):
    config = config_of(tmp_path / "out", {"A": {"load": str(tmp_path / "nowhere")}, "B": {"load": "a:b"}})
    done = subprocess.run(
        [sys.executable, "-m", "itda_lightning.compare", "--config", str(config)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    error = done.stderr.splitlines()[-1]
    assert error.startswith(f"error: A: {tmp_path / 'nowhere'} does not exist: give a path")
    assert "; B: the release 'a' with sae_id 'b' is not to be had" in error
    assert "Traceback" not in done.stderr


@pytest.fixture(autouse=True)
def messages(caplog):
    """What the command logs reaches ``caplog``; its own settings of the logger do not outlive a test."""
    logger = logging.getLogger("itda_lightning")
    level = logger.level
    yield
    logger.setLevel(level)
