"""The evaluate command: what it prints, what it writes, and how it ends."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from jsonargparse import auto_cli
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import evaluate as evaluate_module
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluate import evaluate
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.command_line import run_command
from itda_lightning.page import page
from itda_lightning.saelens import save_export
from tests import by_hand
from tests.processes import run_python
from tests.runs import CONTEXT, HOOK, LAYER, OTHER_HOOK, VALIDATION_ROWS, fit_tiny
from tests.tiny_model import BOS, EOS, WIDTH, save_weights


def evaluated(dictionary: Path | str, output: Path, **options: object) -> dict:
    """What the command writes."""
    evaluate(str(dictionary), output=str(output), device="cpu", **options)
    return json.loads(output.read_text())


@pytest.fixture(scope="module")
def of_the_run(tiny_run, tmp_path_factory) -> dict:
    return evaluated(tiny_run, tmp_path_factory.mktemp("evaluated") / "run.json")


def run_evaluate(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return run_python("-m", "itda_lightning.evaluate", *arguments, cwd=cwd)


def test_what_is_written_says_what_was_measured_on_what(of_the_run, tiny_run, tiny_model_dir, prose_file):
    assert of_the_run["dictionary"] == str(tiny_run)
    assert (of_the_run["architecture"], of_the_run["hook_name"]) == ("itda", HOOK)
    assert of_the_run["model"] == str(tiny_model_dir)
    assert of_the_run["model_fingerprint"] == LanguageModelName(str(tiny_model_dir)).fingerprint()
    assert of_the_run["dataset"]["name"] == str(prose_file)
    assert of_the_run["dataset"]["fingerprint"] == load_dictionary(tiny_run).dataset
    assert len(of_the_run["dataset"]["rows"]) == 32
    assert {"itda-lightning", "sae-lens", "torch", "cpus"} <= set(of_the_run["versions"])
    assert of_the_run["seconds"] > 0


def test_the_figures_agree_with_the_fits_own(of_the_run, tiny_run):
    (fitted,) = json.loads((tiny_run / "metrics.json").read_text())["hook_points"].values()
    assert of_the_run["metrics"]["fvu"] == pytest.approx(fitted["fvu"], rel=1e-4)
    assert of_the_run["metrics"]["l0"] == pytest.approx(fitted["l0"], rel=1e-6)
    tokens = VALIDATION_ROWS * CONTEXT
    assert (of_the_run["metrics"]["tokens_evaluated"], of_the_run["metrics"]["loss_tokens_evaluated"]) == (
        tokens,
        tokens,
    )


def test_a_run_a_checkpoint_a_dictionary_and_both_exports_have_the_same_figures(of_the_run, tiny_run, tmp_path):
    dictionary = load_dictionary(tiny_run)
    dictionary.save(tmp_path / "saved")
    for architecture in ("itda", "matching_pursuit"):
        save_export(dictionary, tmp_path / architecture, architecture)
    places = [
        tiny_run / "checkpoints" / "last.ckpt",
        *(tmp_path / name for name in ("saved", "itda", "matching_pursuit")),
    ]
    for place in places:
        other = evaluated(place, tmp_path / "evaluation.json")
        assert other["dataset"] == of_the_run["dataset"]
        for name, value in of_the_run["metrics"].items():
            assert other["metrics"][name] == pytest.approx(value, rel=1e-4, abs=1e-5), (place, name)


def test_a_stock_sae_with_a_config(of_the_run, tiny_run, tiny_model_dir, tmp_path):
    config = TopKSAEConfig(d_in=WIDTH, d_sae=20, k=3)
    config.metadata.hook_name = HOOK
    sae = TopKSAE(config)
    sae.save_model(tmp_path / "sae")
    written = evaluated(tmp_path / "sae", tmp_path / "e.json", data_config=str(tiny_run / "config.yaml"))
    assert written["architecture"] == "topk"
    assert written["dataset"] == of_the_run["dataset"]
    tokens = data_for(None, str(tiny_run / "config.yaml"), HOOK).rows("heldout").tokens
    expected = by_hand.evaluation(tiny_model_dir, LAYER, tokens, [BOS, EOS], sae.encode, sae.decode)
    for name, value in expected.items():
        assert written["metrics"][name] == pytest.approx(value, rel=2e-4, abs=2e-5), name


def test_the_table_and_the_default_place_of_a_run(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    evaluate(str(run), device="cpu")
    out = capsys.readouterr().out
    written = run / f"evaluation-{HOOK}.json"
    assert out.splitlines()[-1] == f"wrote {written}"
    metrics = json.loads(written.read_text())["metrics"]
    rows = [line.split("  ")[0].strip() for line in out.splitlines()]
    assert rows.index("CE loss, model alone") < rows.index("CE loss, reconstruction") < rows.index("FVU")
    shown = next(line for line in out.splitlines() if line.strip().startswith("FVU")).split()[1]
    assert float(shown) == pytest.approx(metrics["fvu"], rel=1e-3)
    assert not [path.name for path in run.iterdir() if path.name.endswith(".part")]


def test_the_default_place_of_what_is_no_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evaluate(str(tiny_run / "dictionaries" / HOOK), device="cpu", tokens=CONTEXT)
    assert json.loads((tmp_path / "evaluation.json").read_text())["hook_name"] == HOOK


def test_tokens_are_those_of_the_losses(of_the_run, tiny_run, tmp_path):
    few = evaluated(tiny_run, tmp_path / "few.json", tokens=3 * CONTEXT)["metrics"]
    assert (few["loss_tokens_evaluated"], few["tokens_evaluated"]) == (3 * CONTEXT, VALIDATION_ROWS * CONTEXT)
    assert few["fvu"] == pytest.approx(of_the_run["metrics"]["fvu"], rel=1e-6)
    assert few["ce_loss_with_sae"] != of_the_run["metrics"]["ce_loss_with_sae"]
    more = evaluated(tiny_run, tmp_path / "more.json", tokens=40 * CONTEXT)["metrics"]
    assert (more["loss_tokens_evaluated"], more["tokens_evaluated"]) == (40 * CONTEXT, 40 * CONTEXT)


def test_losses_are_of_few_tokens_unless_more_are_asked_for(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluate_module, "DEFAULT_LOSS_TOKENS", 5 * CONTEXT + 3)
    metrics = evaluated(tiny_run, tmp_path / "e.json")["metrics"]
    assert (metrics["loss_tokens_evaluated"], metrics["tokens_evaluated"]) == (5 * CONTEXT, VALIDATION_ROWS * CONTEXT)


def test_one_of_several_hook_points(tiny_run_of_two, tmp_path):
    written = evaluated(tiny_run_of_two, tmp_path / "e.json", hook_name=OTHER_HOOK)
    assert written["hook_name"] == OTHER_HOOK
    fitted = json.loads((tiny_run_of_two / "metrics.json").read_text())["hook_points"][OTHER_HOOK]
    assert written["metrics"]["fvu"] == pytest.approx(fitted["fvu"], rel=1e-4)


def test_all_of_several_hook_points(tiny_run_of_two, tmp_path, capsys):
    run = shutil.copytree(tiny_run_of_two, tmp_path / "two")
    with pytest.raises(InputError, match=r"--output names one file, but .*two has 2 hook points: give --hook_name"):
        evaluated(run, tmp_path / "e.json")
    evaluate(str(run), device="cpu")
    out = capsys.readouterr().out
    for hook in (HOOK, OTHER_HOOK):
        written = json.loads((run / f"evaluation-{hook}.json").read_text())
        assert written["hook_name"] == hook
        assert f"\n{hook}\n" in out
        alone = evaluated(run, tmp_path / "e.json", hook_name=hook)["metrics"]
        assert written["metrics"] == pytest.approx(alone, rel=1e-5)


def test_a_run_that_was_moved_has_the_same_figures(of_the_run, tiny_run, tmp_path):
    moved = shutil.copytree(tiny_run, tmp_path / "elsewhere" / "moved")
    assert evaluated(moved, tmp_path / "e.json")["metrics"] == of_the_run["metrics"]


def test_a_run_whose_model_was_moved_takes_a_config(of_the_run, prose_file, tiny_model_dir, tmp_path):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    run = fit_tiny(tmp_path / "run", model, prose_file)
    model.rename(tmp_path / "moved_model")
    with pytest.raises(InputError, match=r"cannot load the tokenizer of the language model '.*/model'"):
        evaluated(run, tmp_path / "e.json")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["model"] = str(tmp_path / "moved_model")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    written = evaluated(run, tmp_path / "e.json", data_config=str(tmp_path / "config.yaml"))
    assert written["metrics"] == of_the_run["metrics"]


def test_the_dictionary_of_another_model(tiny_run, tiny_model_dir, tmp_path):
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    save_weights(other, seed=3)
    config = yaml.safe_load((tiny_run / "config.yaml").read_text())
    config["data"]["model"] = str(other)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"fitted on the model '.*' but .*config.yaml names another, '.*other'"):
        evaluated(tiny_run, tmp_path / "e.json", data_config=str(tmp_path / "config.yaml"))


def test_a_width_or_hook_point_that_the_model_lacks(tiny_run, tmp_path):
    for d_in, hook, message in (
        (12, HOOK, rf"d_in 12 but {HOOK} of .* has {WIDTH} dimensions"),
        (WIDTH, "blocks.7.hook_resid_post", r"no hook point 'blocks.7.hook_resid_post': did you mean one of"),
    ):
        config = TopKSAEConfig(d_in=d_in, d_sae=20, k=3)
        config.metadata.hook_name = hook
        path = tmp_path / f"sae-{d_in}"
        TopKSAE(config).save_model(path)
        with pytest.raises(InputError, match=message):
            evaluated(path, tmp_path / "e.json", data_config=str(tiny_run / "config.yaml"))
    assert not (tmp_path / "e.json").exists()


def test_nothing_says_on_what_to_evaluate(tiny_run, tmp_path):
    Dictionary(load_dictionary(tiny_run).atoms, k=2).save(tmp_path / "bare")
    with pytest.raises(InputError, match="nothing says which model and documents to use: give --data_config"):
        evaluated(tmp_path / "bare", tmp_path / "e.json", hook_name=HOOK)


def test_fewer_tokens_than_a_row(tiny_run, tmp_path):
    for tokens, least in ((-1, 1), (CONTEXT - 1, CONTEXT)):
        with pytest.raises(InputError, match=f"--tokens must be at least {least}, got {tokens}"):
            evaluated(tiny_run, tmp_path / "e.json", tokens=tokens)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dictionary", "nowhere"], "nowhere does not exist: give a path, or release:sae_id"),
        (["--dictionary", "no-such:release"], "the release 'no-such' with sae_id 'release' cannot be loaded"),
        (["--dictionary", "RUN", "--hook_name", "blocks.9.x"], "no dictionary of 'blocks.9.x'"),
        (["--dictionary", "RUN", "--data_config", "nowhere.yaml"], "cannot read the config nowhere.yaml"),
        (["--dictionary", "RUN", "--device", "cuda:9"], "CUDA devices are available"),
        (["--dictionary", "RUN", "--device", "tpu9"], "is not a device"),
        (["--dictionary", "RUN", "--model_batch_size", "0"], "model_batch_size must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tiny_run, capsys, arguments, message):
    arguments = [str(tiny_run) if argument == "RUN" else argument for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: auto_cli(evaluate, as_positional=False, args=arguments))
    assert ended.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert message in lines[0]


def test_in_a_process_of_its_own(tiny_run, tmp_path):
    done = run_evaluate("--dictionary", str(tiny_run), "--output", "deep/e.json", "--device", "cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"wrote {tmp_path / 'deep' / 'e.json'}"
    assert "Reconstruction Batches" in done.stderr
    assert "Warning" not in done.stderr
    assert json.loads((tmp_path / "deep" / "e.json").read_text())["hook_name"] == HOOK


def test_bad_input_in_a_process_of_its_own_has_no_traceback(tmp_path):
    done = run_evaluate("--dictionary", str(tmp_path / "nowhere"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {tmp_path / 'nowhere'} does not exist: give a path, or release:sae_id of a pretrained SAE\n"
    )
    assert list(tmp_path.iterdir()) == []


def test_help_describes_every_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        auto_cli(evaluate, as_positional=False, args=["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for phrase in ("release:sae_id", "at most 4,096", "RUN/evaluation-<hook name>.json", "take much memory"):
        assert phrase in text


@pytest.mark.parametrize("command", [evaluate, page])
def test_a_place_that_will_not_do_is_refused_before_anything_is_measured(command, tiny_run, tmp_path, monkeypatch):
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("the language model was loaded"))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for place, told in ((tmp_path, "Is a directory"), (tmp_path / "link", "give .*file itself")):
        with pytest.raises(InputError, match=told):
            command(str(tiny_run), output=str(place))
    assert (tmp_path / "link").is_symlink()
