"""The page command: the numbers on the page are those of the held-out activations, measured another way."""

import html
import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import COLUMNS
from itda_lightning.errors import InputError
from itda_lightning.evaluate import evaluate
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.command_line import run_command
from itda_lightning.page import page
from itda_lightning.saelens import save_export
from tests import by_hand
from tests.pages import data_in
from tests.runs import CONTEXT, HOOK, LAYER, OTHER_HOOK, VALIDATION_ROWS, K
from tests.tiny_model import WIDTH

METRIC = re.compile(r'data-metric="([^"]+)">.*?<data value="([^"]+)">', re.DOTALL)
FACT = re.compile(r"<div><dt>([^<]*)</dt><dd>([^<]*)</dd></div>")


def metrics_on(text: str) -> dict[str, float]:
    return {name: float(value) for name, value in METRIC.findall(text)}


def facts_on(text: str) -> dict[str, str]:
    return {html.unescape(name): html.unescape(value) for name, value in FACT.findall(text)}


def atoms_on(text: str) -> list[dict]:
    return data_in(text)["atoms"]


def page_of(dictionary: Path, tmp_path: Path, **options: object) -> str:
    page(str(dictionary), output=str(tmp_path / "made.html"), device="cpu", **options)
    return (tmp_path / "made.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def of_the_run(tiny_run, tmp_path_factory) -> str:
    return page_of(tiny_run, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def heldout(tiny_run, tiny_model_dir) -> tuple[torch.Tensor, torch.Tensor]:
    """Held-out activations, computed with `transformers` alone, and the tokens that they are of."""
    rows = data_for(load_dictionary(tiny_run), None, HOOK).rows("heldout")
    x = by_hand.activations(tiny_model_dir, LAYER, rows.tokens)
    return x[rows.kept], rows.tokens[rows.kept]


def test_metrics_are_those_of_the_activations_and_of_the_fit(of_the_run, tiny_run, heldout):
    dictionary, (x, tokens) = load_dictionary(tiny_run), heldout
    shown = metrics_on(of_the_run)
    assert list(shown) == ["n_atoms", "fvu", "unexplained", "l0", "dead_atoms", "label_rate"]
    code = dictionary.encode(x).to_dense(dictionary.n_atoms)
    residual = (x - dictionary(x)).double().square().sum()
    assert shown["fvu"] == pytest.approx(float(residual / (x - x.mean(0)).double().square().sum()), rel=1e-4)
    shares = (x - dictionary(x)).square().sum(1) / (x - dictionary.bias).square().sum(1)
    assert shown["unexplained"] == pytest.approx(float(shares.double().mean()), rel=1e-4)
    assert shown["l0"] == pytest.approx(float((code != 0).sum(-1).double().mean()), rel=1e-9)
    assert shown["dead_atoms"] == int((code == 0).all(0).sum())
    cosines = torch.nn.functional.normalize(x - dictionary.bias, dim=1) @ dictionary.atoms.T
    detected = tokens[cosines.topk(5, dim=0).indices]
    of_labels = dictionary.source_table[:, COLUMNS.index("token")]
    assert shown["label_rate"] == pytest.approx(float((detected == of_labels).double().mean()), abs=0.005)
    (fitted,) = json.loads((tiny_run / "metrics.json").read_text())["hook_points"].values()
    assert shown["n_atoms"] == fitted["n_atoms"]
    assert shown["fvu"] == pytest.approx(fitted["fvu"], rel=1e-4)


def test_what_each_atom_is_used_for_is_counted(of_the_run, tiny_run, heldout):
    dictionary, (x, _) = load_dictionary(tiny_run), heldout
    code = dictionary.encode(x).to_dense(dictionary.n_atoms)
    atoms = atoms_on(of_the_run)
    assert len(atoms) == dictionary.n_atoms
    for index, atom in enumerate(atoms):
        used = code[:, index][code[:, index] != 0]
        assert atom["count"] == len(used) == sum(atom["histogram"]["counts"])
        assert atom["density"] == pytest.approx(len(used) / len(x), rel=1e-4)
        largest = used[used.abs().argsort(descending=True)][:5].tolist()
        assert [value for value, _ in atom["top"]] == pytest.approx(largest, rel=1e-3, abs=1e-4)
        assert dictionary.sources is not None
        assert tuple(atom["source"]) == dictionary.sources[index]


def test_examples_are_marked_at_the_token_they_are_of(of_the_run, heldout, tiny_run):
    x, tokens = heldout
    data = data_for(load_dictionary(tiny_run), None, HOOK)
    code = load_dictionary(tiny_run).encode(x).to_dense(len(atoms_on(of_the_run)))
    checked = 0
    contexts = data_in(of_the_run)["contexts"]
    for index, atom in enumerate(atoms_on(of_the_run)):
        for value, context in atom["top"]:
            token = contexts[context][1]
            near = (code[:, index] - value).abs().argmin()
            text = data.tokenizer.decode([int(tokens[near])])
            if text.isascii() and text.isprintable() and text.strip():
                assert token == text
                checked += 1
    assert checked > 50


def test_facts_say_what_was_measured(of_the_run, tiny_run, tiny_model_dir, prose_file):
    facts = facts_on(of_the_run)
    dictionary = load_dictionary(tiny_run)
    assert (facts["model"], facts["hook point"], facts["dataset"]) == (str(tiny_model_dir), HOOK, str(prose_file))
    assert facts["dataset fingerprint"] == dictionary.dataset[:12]
    assert facts["pursuit"] == f"matching pursuit, k = {K}"
    assert facts["growth"] == "sequential"
    assert facts["seed"] == "0"
    assert facts["activations read"] == f"{dictionary.metadata['activations_seen']:,} of 1,920 tokens"
    assert facts["held-out activations"].endswith(f" of {VALIDATION_ROWS * CONTEXT} tokens")
    assert facts["threshold"] == f"{dictionary.metadata['threshold']:.4f} of the energy to the power 0.85"


def test_the_curves_of_the_fit_are_drawn(of_the_run, tiny_run):
    metadata = load_dictionary(tiny_run).metadata
    seen, n_atoms = metadata["growth"][-1]
    assert f"{n_atoms:,} after {seen:,}." in of_the_run
    assert 'data-plot="growth"' in of_the_run
    assert 'data-plot="fvu"' in of_the_run


def test_a_single_validation_is_no_curve(tiny_run, tmp_path):
    dictionary = load_dictionary(tiny_run)
    dictionary.metadata["validation"] = dictionary.metadata["validation"][-1:]
    dictionary.save(tmp_path / "saved")
    text = page_of(tmp_path / "saved", tmp_path)
    assert 'data-plot="growth"' in text
    assert 'data-plot="fvu"' not in text


def test_an_evaluation_of_the_run_is_on_its_page(tiny_run, tmp_path, capsys):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    evaluate(str(run), device="cpu", tokens=4 * CONTEXT)
    page(str(run), device="cpu")
    made = run / f"page-{HOOK}.html"
    assert capsys.readouterr().out.splitlines()[-1] == f"page: {made}"
    shown = metrics_on(made.read_text())
    evaluated = json.loads((run / f"evaluation-{HOOK}.json").read_text())["metrics"]
    for name in (
        "ce_loss_without_sae",
        "ce_loss_with_sae",
        "ce_loss_with_ablation",
        "ce_loss_score",
        "kl_div_with_sae",
    ):
        assert shown[name] == evaluated[name]
    assert shown["loss_tokens_evaluated"] == 4 * CONTEXT
    assert shown["fvu"] == pytest.approx(evaluated["fvu"], rel=1e-4)


def test_an_evaluation_that_is_damaged_is_refused(tiny_run, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run")
    for text in ("{", "[]", "{}", '{"metrics": 3}'):
        (run / f"evaluation-{HOOK}.json").write_text(text)
        with pytest.raises(InputError, match=r"evaluation-.*json is not what evaluate writes .*evaluate the run again"):
            page(str(run), device="cpu")
    assert not list(run.glob("page-*"))


def test_what_is_printed(tiny_run, tmp_path, capsys):
    text = page_of(tiny_run, tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"page: {tmp_path / 'made.html'}"
    fvu = next(line for line in lines if line.strip().startswith("FVU")).split()[1]
    assert float(fvu) == pytest.approx(metrics_on(text)["fvu"], rel=1e-3)
    assert any("unexplained" in line for line in lines)
    assert max(map(len, lines[:-1])) <= 80


def test_decompositions_are_of_held_out_tokens(of_the_run, tiny_run, heldout):
    """The norm shown leads to the activation; the token, the terms and what they leave are then to be its own."""
    dictionary, (x, tokens) = load_dictionary(tiny_run), heldout
    data = data_for(dictionary, None, HOOK)
    centred = x - dictionary.bias
    code = dictionary.encode(x).to_dense(dictionary.n_atoms)
    articles = re.findall('<article class="decomposition">(.*?)</article>', of_the_run, re.DOTALL)
    found = []
    for article in articles:
        unexplained, norm, distance, *coefficients = map(float, re.findall(r'<data value="([^"]+)">', article))
        place = int((centred.norm(dim=1) - distance).abs().argmin())
        found.append(place)
        assert float(centred[place].norm()) == pytest.approx(distance, rel=1e-5)
        assert float(x[place].norm()) == pytest.approx(norm, rel=1e-5)
        used = code[place].nonzero()[:, 0]
        terms = dict(zip(map(int, re.findall(r'href="#atom-(\d+)"', article)), coefficients, strict=True))
        assert terms == pytest.approx(dict(zip(used.tolist(), code[place][used].tolist(), strict=True)), rel=1e-3)
        left = (x[place] - dictionary(x[place][None])[0]).square().sum() / centred[place].square().sum()
        assert unexplained == pytest.approx(float(left), rel=1e-3)
        marked = re.search("<mark>(.*?)</mark>", article)
        assert marked is not None
        text = data.tokenizer.decode([int(tokens[place])])
        assert html.unescape(marked[1]) == text or not text.strip() or not text.isascii()
    assert len(set(found)) == 3
    assert found == sorted(found)


def test_the_default_place_of_what_is_no_run(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page(str(tiny_run / "dictionaries" / HOOK), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


@pytest.mark.parametrize("place", ["checkpoint", "itda", "matching_pursuit", "moved"])
def test_every_form_of_a_dictionary_has_the_same_page(of_the_run, tiny_run, tmp_path, place):
    path = tmp_path / place
    if place == "checkpoint":
        path = tiny_run / "checkpoints" / "last.ckpt"
    elif place == "moved":
        shutil.copytree(tiny_run, path)
    else:
        save_export(load_dictionary(tiny_run), path, place)
    text = page_of(path, tmp_path)
    assert metrics_on(text) == metrics_on(of_the_run)
    assert atoms_on(text) == atoms_on(of_the_run)


def test_each_of_several_hook_points_has_its_page(tiny_run_of_two, tmp_path):
    run = shutil.copytree(tiny_run_of_two, tmp_path / "run")
    with pytest.raises(InputError, match="several hook points: give hook_name"):
        page(str(run), device="cpu")
    fitted = json.loads((run / "metrics.json").read_text())["hook_points"]
    for hook in (OTHER_HOOK, HOOK):
        page(str(run), hook_name=hook, device="cpu")
        text = (run / f"page-{hook}.html").read_text()
        assert facts_on(text)["hook point"] == hook
        assert metrics_on(text)["fvu"] == pytest.approx(fitted[hook]["fvu"], rel=1e-4)


def test_a_dictionary_of_nobody_knows_what_takes_a_config(tiny_run, tmp_path):
    dictionary = load_dictionary(tiny_run)
    Dictionary(dictionary.atoms, dictionary.bias, k=K).save(tmp_path / "bare")
    with pytest.raises(InputError, match="bare does not name its hook point: give --hook_name"):
        page_of(tmp_path / "bare", tmp_path)
    text = page_of(tmp_path / "bare", tmp_path, hook_name=HOOK, data_config=str(tiny_run / "config.yaml"))
    assert "threshold" not in facts_on(text)
    assert all(atom["prompt"] is None for atom in atoms_on(text))


def test_a_dictionary_of_another_width_is_refused(tiny_run, tmp_path):
    atoms = torch.nn.functional.normalize(torch.randn(4, WIDTH + 1), dim=1)
    Dictionary(atoms, k=2, metadata=load_dictionary(tiny_run).metadata).save(tmp_path / "wide")
    with pytest.raises(
        InputError, match=rf"the dictionary has d_in {WIDTH + 1} but {HOOK} of .* has {WIDTH} dimensions: it was fitted"
    ):
        page_of(tmp_path / "wide", tmp_path)


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: auto_cli(page, as_positional=False, args=["--dictionary", str(tmp_path / "nowhere")]))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: {tmp_path / 'nowhere'} does not exist: give a run directory")
    assert captured.err.count("\n") == 1
