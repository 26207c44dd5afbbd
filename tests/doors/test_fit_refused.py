"""The fit command refuses wrong settings in one line, before anything is loaded or written."""

import re

import pytest
import yaml

from itda_lightning.errors import InputError
from itda_lightning.fit import main
from tests.fits import HOOK, fit_arguments, fit_in_child
from tests.processes import run_python

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")


@pytest.fixture
def arguments(tiny_model_dir, prose_file, tmp_path):
    """The command line of a small fit, with changes, whose runs lie in tmp_path."""
    return lambda **others: fit_arguments(tiny_model_dir, prose_file, tmp_path, **others)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.max_atom", "3"], r"max_atom\b"),
        (["--data.tokens", "3"], r"tokens"),
        (["--runs.name", "x"], r"runs"),
        (["--model.k", "many"], r"model\.k.*many"),
        (["--model.pursuit", "gradient"], r"model.pursuit.*gradient"),
        (["--data.context_size", "long"], r"context_size.*long"),
        (["--run.patience", "0.5"], r"run\.patience.*0\.5"),
        (["--model.center", "perhaps"], r"center.*perhaps"),
        (["--config", "nowhere.yaml"], r"nowhere.yaml"),
    ],
)
def test_options_that_do_not_exist_or_do_not_parse(arguments, capsys, tmp_path, options, message):
    with pytest.raises(SystemExit) as ended:
        main([*arguments(), *options])
    assert ended.value.code == 2
    assert re.search(message, capsys.readouterr().err.split("error:")[-1], re.DOTALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("group", "key"), [("model", "max_atom"), ("data", "hooks"), ("run", "patient"), (None, "mode")]
)
def test_a_mistyped_key_in_a_file_is_named(arguments, capsys, tmp_path, group, key):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({group: {key: 1}} if group else {key: 1}))
    with pytest.raises(SystemExit) as ended:
        main([*arguments(), "--config", str(tmp_path / "config.yaml")])
    assert ended.value.code == 2
    assert key in capsys.readouterr().err.split("error:")[-1]


def test_required_settings_are_named(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--data.hook_names", f"[{HOOK}]", "--data.dataset", "x"])
    assert ended.value.code == 2
    assert "data.model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"run__checkpoint_every": 0}, r"run.checkpoint_every must be at least 1, got 0"),
        ({"run__validate_every": -1}, r"run.validate_every must be at least 1, got -1"),
        ({"run__patience": 0}, r"run.patience must be at least 1, got 0"),
        ({"model__threshold": 1.5}, r"model.threshold 1.5 can never append an atom"),
        ({"data__hook_names": "[blocks.7.hook_resid_post]"}, r"no hook point 'blocks.7.hook_resid_post'"),
        ({"data__training_tokens": 10**9}, r"data.training_tokens asks for 1,000,000,000 tokens"),
        ({"data__device": "cuda:99"}, r"the device cuda:99 was asked for but \d+ CUDA devices are available"),
        ({"trainer__accelerator": "tpu"}, r"the trainer cannot be made: .*; fix trainer.accelerator"),
        (
            {"trainer__accelerator": "abc"},
            r"the trainer cannot be made: ValueError: You selected an invalid",
        ),
        ({"trainer__devices": -1}, r"the trainer cannot be made: .*; fix trainer.accelerator"),
        ({"trainer__strategy": "fsdp"}, r"the trainer cannot be made: .*; fix .*trainer.strategy"),
        (
            {"trainer__accumulate_grad_batches": 4},
            r"trainer.accumulate_grad_batches of a fit must be 1, got 4",
        ),
        (
            {"trainer__precision": "bf16-true"},
            r"trainer.precision of a fit must be None, got 'bf16-true': codes",
        ),
        ({"trainer__barebones": "true"}, r"trainer.barebones of a fit must be False, got True: a run is checkpointed"),
        (
            {"trainer__fast_dev_run": "true"},
            r"trainer.fast_dev_run of a fit must be False, got True: a small",
        ),
        ({"trainer__check_val_every_n_epoch": 0}, r"must be None, got 0: run.validate_every is the number of steps"),
        (
            {"trainer__max_steps": 0},
            r"trainer.max_steps is 0: the fit would see no activations and its dictionary would",
        ),
        ({"trainer__max_epochs": 0}, r"trainer.max_epochs is 0: .* leave it out, or give at least 1"),
        ({"trainer__max_time": "00:00:00:00"}, r"trainer.max_time is 0: the fit would see no activations"),
        (
            {"trainer__limit_train_batches": "0.0"},
            r"trainer.limit_train_batches is 0: the fit would see no activations",
        ),
        (
            {"trainer__limit_train_batches": 0.06},
            r"trainer.limit_train_batches 0.06 of 16 batches is less than one: give at least 0.062",
        ),
        ({"trainer__limit_val_batches": 0.2}, r"trainer.limit_val_batches 0.2 of 4 batches is less than one: give at"),
        ({"seed_everything": -1}, r"seed_everything must lie between 0 and 4,294,967,295, got -1: it is a seed of 32"),
        ({"data__seed": -1}, r"data.seed must lie between 0 and 4,294,967,295, got -1"),
        ({"data__batch_size": 2**70}, r"data.batch_size must be at most 9,007,199,254,740,992, got 1,180,591,620,717"),
        ({"data__cache_dir": "~nouser-at-all/x"}, r"data.cache_dir '~nouser-at-all/x' cannot be read"),
        ({"data__dataset": "x" * 300}, r"data.dataset 'x+'... has a name of more than 255 bytes"),
        (
            {"refine": "{seed: 1180591620717411303424}"},
            r"refine.seed must lie between 0 and 4,294,967,295, got 1,180,591,620,717,411,303,424",
        ),
        (
            {"model__max_atoms": 10**9},
            r"model.max_atoms 1,000,000,000 takes 192.0 GB at 1 hook points, but there",
        ),
        ({"model__k": 10**9}, r"model.k must lie between 1 and 512, got 1,000,000,000: activations here have 32 dim"),
        (
            {"trainer__devices": 2, "trainer__strategy": "ddp"},
            r"2 processes fit an ITDA with strategy=itda_lightning.Replicated\(\), not DDPStrategy",
        ),
    ],
)
def test_bad_settings_are_refused_before_anything_is_written(arguments, tmp_path, others, message):
    with pytest.raises(InputError, match=message):
        main(arguments(**others))
    assert list(tmp_path.iterdir()) == []


def test_a_budget_below_the_number_of_atoms_leaves_no_run_directory(arguments, tmp_path):
    with pytest.raises(InputError, match=r"cannot calibrate .* a budget of 1,\d+ activations cannot fill 5,000 atoms"):
        main(arguments(model__threshold=None, model__max_atoms=5000))
    assert list(tmp_path.iterdir()) == []


def test_a_run_directory_that_cannot_be_made(arguments, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"not permitted while making a run directory in .*file"):
        main(arguments(run__runs_directory=tmp_path / "file" / "runs"))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"data__model": "/nowhere/model"}, "error: cannot load the tokenizer of the language model '/nowhere/model'"),
        ({"data__dataset": "/nowhere/text"}, "error: cannot load the dataset '/nowhere/text'"),
        ({"run__directory": "/proc/none/run"}, "error: failed while making the run directory /proc/none/run"),
        ({"model__k": 0}, "error: model.k must be at least 1, got 0"),
        ({"model__memory_budget": 1000}, "error: model.memory_budget must be at least 1,048,576, got 1,000"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, tmp_path, others, message):
    assert fit_in_child(arguments(**others), tmp_path / "output") == 2
    output = (tmp_path / "output").read_text().rstrip()
    assert output.splitlines()[-1].startswith(message)
    assert "Traceback" not in output


def test_the_command_itself(arguments):
    ended = run_python("-m", "itda_lightning.fit", *arguments(), "--run.nmae", "x")
    assert ended.returncode == 2
    assert "nmae" in ended.stderr
    assert "Traceback" not in ended.stderr
