"""A killed and resumed fit ends as if it had never stopped; checkpoints of other fits are refused."""

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fit import main
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO, read_checkpoint
from itda_lightning.fitting.run_directory import RunSettings
from tests.fits import HOOK, fit_arguments, fit_in_child
from tests.tiny_model import save_weights

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture(scope="module")
def killed(tiny_model_dir: Path, prose_file: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A fit killed in its eleventh step: its command line, and its directory with a checkpoint of nine steps."""
    runs = tmp_path_factory.mktemp("killed")
    arguments = fit_arguments(tiny_model_dir, prose_file, runs)
    assert fit_in_child(arguments, runs / "output", 10, signal.SIGKILL) == -signal.SIGKILL
    return arguments, runs


def assert_same_dictionary(one: Path, other: Path) -> None:
    a, b = (Dictionary.load(run / "dictionaries" / HOOK) for run in (one, other))
    assert torch.equal(a.atoms, b.atoms)
    assert torch.equal(a.bias, b.bias)
    assert torch.equal(a.source_table, b.source_table)
    assert a.prompts == b.prompts
    for metadata in (a.metadata, b.metadata):
        metadata["data"].pop("cache_dir")
    assert a.metadata == b.metadata  # threshold, growth curve and the history of validation among it
    assert len(a.metadata["validation"]) >= 4
    metrics = [json.loads((run / "metrics.json").read_text())["hook_points"] for run in (one, other)]
    assert metrics[0] == metrics[1]


# Killed after a checkpoint; in a step that ends with one and with a validation; in the last one. A run may go on with a
# cache, or without, whatever it began with: each policy is resumed in both ways.
@pytest.mark.parametrize(
    ("growth", "named", "steps", "cached"),
    [
        ("sequential", False, (4, 8, 15), (True, True, False, False)),
        ("frozen_batch", True, (4,), (True, False)),
        ("worst_first", True, (15,), (False, True)),
    ],
)
def test_a_fit_killed_again_and_again_ends_bit_for_bit_as_one_that_was_not(
    tiny_model_dir, prose_file, tmp_path, growth, named, steps, cached
):
    """The same command line with a run.name or a run.directory, called until it succeeds, as a cluster would."""
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, model__growth=growth)
    main([*arguments, "--run.directory", str(tmp_path / "whole")])
    n_atoms = Dictionary.load(tmp_path / "whole" / "dictionaries" / HOOK).n_atoms
    assert 20 < n_atoms < 150  # it grew, and until the end
    arguments += ["--run.name", "run"] if named else ["--run.directory", str(tmp_path / "run")]
    of_cache = ["--data.cache_dir", str(tmp_path / "cache")]
    names = [f"run-00{i}" for i in range(1, 5)] if named else ["run", *(f"run-resumed-00{i}" for i in range(1, 4))]
    kept = []
    for step, name, is_cached in zip(steps, names, cached, strict=False):
        command = [*arguments, *(of_cache if is_cached else [])]
        assert fit_in_child(command, tmp_path / "output", step, signal.SIGKILL) == -signal.SIGKILL
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        kept.append((last, last.read_bytes()))
        assert read_checkpoint(last)["global_step"] == step // 3 * 3
        assert not (tmp_path / name / "metrics.json").exists()
        if "--ckpt_path" not in arguments:
            arguments += ["--ckpt_path", "last"]
    main([*arguments, *(of_cache if cached[-1] else [])])
    assert_same_dictionary(tmp_path / "whole", tmp_path / names[len(steps)])
    assert all(last.read_bytes() == before for last, before in kept)


@pytest.mark.parametrize("others", [{"model__max_atoms": 12}, {"model__threshold": 0.99, "run__patience": 5}])
def test_a_fit_that_was_killed_when_it_was_done_trains_no_further_step(tiny_model_dir, prose_file, tmp_path, others):
    """Nor does one whose patience ended; that patience outlives a kill."""
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, run__checkpoint_every=1, **others)
    main([*arguments, "--run.directory", str(tmp_path / "whole")])

    def results(run: str) -> dict:
        return json.loads((tmp_path / run / "metrics.json").read_text())["hook_points"][HOOK]

    last = tmp_path / "whole" / "checkpoints" / "last.ckpt"
    main([*arguments, "--run.name", "again", "--ckpt_path", str(last)])
    assert 128 <= results("whole")["activations_seen"] < 1700
    assert results("again-001") == results("whole")
    if "run__patience" in others:
        steps = results("whole")["activations_seen"] // 128
        assert 6 < steps < 15
        killed = [*arguments, "--run.checkpoint_every", "3"]
        assert fit_in_child(killed, tmp_path / "output", steps - 2, signal.SIGKILL) == -signal.SIGKILL
        main([*killed, "--ckpt_path", "last"])
        assert results("itda-002") == results("whole")


def test_ctrl_c_keeps_the_last_checkpoint_and_exits_with_130(killed, tiny_model_dir, prose_file, tmp_path):
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path)
    assert fit_in_child(arguments, tmp_path / "output", 10, signal.SIGINT) == 130
    output = (tmp_path / "output").read_text()
    assert output.rstrip().endswith("interrupted")
    assert "Traceback" not in output
    assert "--ckpt_path last resumes from the last checkpoint" in (tmp_path / "itda-001" / "fit.log").read_text()
    assert read_checkpoint(tmp_path / "itda-001" / "checkpoints" / "last.ckpt")["global_step"] == 9
    assert (tmp_path / "itda-001" / "metrics.csv").is_file()
    # It is that of a fit that was killed, which is resumed elsewhere.
    kept, of_killed = (
        read_checkpoint(runs / "itda-001" / "checkpoints" / "last.ckpt")["state_dict"] for runs in (tmp_path, killed[1])
    )
    assert kept.keys() == of_killed.keys()
    assert all(torch.equal(kept[name], of_killed[name]) for name in kept if torch.is_tensor(kept[name]))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"model__k": 5, "model__pursuit": "mp", "model__growth": "frozen_batch"},
            r"another fit \(model.k: 4 there, 5 here; model.pursuit: 'omp' .*; model.growth: 'seq.* own config.yaml",
        ),
        (
            {"model__threshold": 0.5, "data__batch_size": 64},
            r"(?=.*data.batch_size: 128 there, 64 here)(?=.*model.threshold: 0.75 there, 0.5 here)",
        ),
        ({"data__training_tokens": 1024}, r"\(data.rows: '\w+' there, '\w+' here\)"),
        ({"data__seed": 3}, r"\(data.rows: '\w+' there, '\w+' here\)"),
        (
            {"data__cache_dir": "{tmp}", "data__cache_dtype": "bfloat16"},
            r"another fit \(data.cache_dtype: 'float32' there, 'bfloat16' here\)",
        ),
        ({"data__hook_names": "[blocks.0.hook_resid_post]"}, r"\(data.hook_names: \['blocks.1.*\['blocks.0.*"),
    ],
)
def test_other_settings_are_refused(killed, tmp_path, tiny_model_dir, prose_file, others, message):
    checkpoint = killed[1] / "itda-001" / "checkpoints" / "last.ckpt"
    others = {name: str(value).replace("{tmp}", str(tmp_path)) for name, value in others.items()}
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, **others)
    with pytest.raises(InputError, match=message):
        main([*arguments, "--ckpt_path", str(checkpoint)])


def test_other_documents_are_refused(killed, tmp_path, tiny_model_dir, prose_file):
    other = tmp_path / "prose.jsonl"
    other.write_text("".join(reversed(prose_file.read_text().splitlines(keepends=True))))
    checkpoint = killed[1] / "itda-001" / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=r"data.dataset: '\w+' there, '\w+' here; data.rows"):
        main([*fit_arguments(tiny_model_dir, other, tmp_path), "--ckpt_path", str(checkpoint)])


def test_another_model_of_the_same_shape_is_refused(killed, tmp_path, tiny_model_dir, prose_file):
    shutil.copytree(tiny_model_dir, tmp_path / "other")
    save_weights(tmp_path / "other", seed=1)
    checkpoint = killed[1] / "itda-001" / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match=r"\(data.model: '\w+' there, '\w+' here\)"):
        main([*fit_arguments(tmp_path / "other", prose_file, tmp_path), "--ckpt_path", str(checkpoint)])


def test_the_same_model_elsewhere_is_taken(killed, tmp_path, tiny_model_dir, prose_file):
    shutil.copytree(tiny_model_dir, tmp_path / "moved")
    checkpoint = killed[1] / "itda-001" / "checkpoints" / "last.ckpt"
    arguments = fit_arguments(tmp_path / "moved", prose_file, tmp_path, data__model_batch_size=4)
    assert (main([*arguments, "--ckpt_path", str(checkpoint)]) / "metrics.json").is_file()


@pytest.fixture(scope="module")
def damaged(killed: tuple[list[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("damaged")
    whole = killed[1] / "itda-001" / "checkpoints" / "last.ckpt"
    paths = {name: directory / f"{name}.ckpt" for name in ("truncated", "empty", "text", "pickle", "foreign")}
    paths["truncated"].write_bytes(whole.read_bytes()[:-1000])
    paths["empty"].touch()
    paths["text"].write_text("no checkpoint")
    torch.save({"state_dict": {}}, paths["pickle"])
    content = read_checkpoint(whole)
    del content["itda"]
    SafetensorsCheckpointIO().save_checkpoint(content, paths["foreign"])
    return paths


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("truncated", r"the checkpoint .*truncated.ckpt is truncated or foreign \(.*\): take an earlier one"),
        ("empty", r"the checkpoint .*empty.ckpt is truncated or foreign"),
        ("text", r"the checkpoint .*text.ckpt is truncated or foreign"),
        ("pickle", r"the checkpoint .*pickle.ckpt is truncated or foreign"),
        ("foreign", r"not one of an ITDA fit: give one of a run's checkpoints/ directory"),
        ("missing", r"ckpt_path: there is no checkpoint .*missing.ckpt; they are in a run's checkpoints/"),
    ],
)
def test_damaged_checkpoints_are_refused(damaged, tiny_model_dir, prose_file, tmp_path, name, message):
    path = damaged.get(name, tmp_path / "missing.ckpt")
    with pytest.raises(InputError, match=message):
        main([*fit_arguments(tiny_model_dir, prose_file, tmp_path), "--ckpt_path", str(path)])


def test_a_damaged_checkpoint_is_one_line_and_exit_code_2(damaged, tiny_model_dir, prose_file, tmp_path):
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path)
    arguments += ["--ckpt_path", str(damaged["truncated"])]
    assert fit_in_child(arguments, tmp_path / "output") == 2
    output = (tmp_path / "output").read_text()
    assert "Traceback" not in output
    assert output.rstrip().splitlines()[-1].startswith("error: ")
    assert "truncated.ckpt" in output.rstrip().splitlines()[-1]


def test_last_is_the_newest_of_the_runs_of_exactly_this_name(tmp_path):
    for age, name in enumerate(["fit-001", "fit-002", "fit-other-001", "fits-001", "fit-2"]):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / "checkpoints" / "last.ckpt").write_text(str(age))
    run = RunSettings(runs_directory=str(tmp_path), name="fit")
    assert run.checkpoint("last") == str(tmp_path / "fit-002" / "checkpoints" / "last.ckpt")
    assert run.checkpoint(None) is None


def test_last_where_there_is_none_starts_the_run(tmp_path, caplog):
    """A run that was killed in its harvest has a directory and no checkpoint."""
    caplog.set_level("INFO", "itda_lightning")
    (tmp_path / "fit-001" / "checkpoints").mkdir(parents=True)
    named = RunSettings(runs_directory=str(tmp_path), name="fit")
    assert named.checkpoint("last") is None
    assert "ckpt_path=last: no run named fit in" in caplog.text
    assert named.make_directory(resumed=True) == tmp_path / "fit-002"
    given = RunSettings(directory=str(tmp_path / "fit-001"))
    assert given.checkpoint("last") is None
    assert "neither fit-001 nor a run that resumed it in" in caplog.text
    assert given.make_directory(resumed=True) == tmp_path / "fit-001-resumed-001"
    assert RunSettings(directory=str(tmp_path / "new")).make_directory(resumed=True) == tmp_path / "new"


def test_a_fit_resumed_at_the_step_of_a_validation_has_that_validation(tiny_model_dir, prose_file, tmp_path):
    """A checkpoint is written before the validation of its step. The same command line starts and resumes."""
    arguments = fit_arguments(tiny_model_dir, prose_file, tmp_path, run__checkpoint_every=5, run__validate_every=5)
    whole = main([*arguments, "--ckpt_path", "last"])
    assert read_checkpoint(whole / "checkpoints" / "last.ckpt")["global_step"] == 15
    resumed = main([*arguments, "--ckpt_path", "last"])
    facts = [(run / "dictionaries" / HOOK / "dictionary.json").read_bytes() for run in (whole, resumed)]
    assert facts[1] == facts[0]
    assert len(json.loads(facts[0])["metadata"]["validation"]) == 4
