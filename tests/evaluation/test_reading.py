"""A dictionary looked at by its own methods: decompositions, contexts, typical coefficients, its model."""

import json

import pytest
import torch
from datasets import Dataset

import itda_lightning as il
from itda_lightning.activations.text.tokenizer import encode
from itda_lightning.dictionary.copies import copied
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.decomposition import decompose_tokens
from itda_lightning.evaluation.reading import data_of, rows_of_texts
from itda_lightning.evaluation.typical_uses import TYPICAL, typical_coefficients
from tests.by_hand import activations
from tests.runs import HOOK, LAYER, fit_tiny
from tests.tiny_model import LONGEST_CONTEXT

TEXT = "The <b>Senate</b> ratified the treaty of peace."


@pytest.fixture(scope="module")
def dictionary(tiny_run):
    return il.load_dictionary(tiny_run)


@pytest.fixture(scope="module")
def heldout(dictionary):
    batches = list(data_of(dictionary)[1].heldout_batches(HOOK))
    return torch.cat([x for x, _ in batches]), torch.cat([table for _, table in batches])


def test_a_text_is_decomposed_as_by_the_command(dictionary):
    shown = dictionary.decompose(TEXT)
    data = data_for(dictionary, None, HOOK)
    expected = decompose_tokens(dictionary, data, HOOK, TEXT, list(range(len(shown))))
    assert "".join(token.token for token in shown) == TEXT
    for token, decomposition in zip(shown, expected, strict=True):
        terms = [(term.atom, term.coefficient) for term in decomposition.terms]
        assert [(term.atom, term.coefficient) for term in token.atoms] == terms
        assert (token.norm, token.unexplained) == (decomposition.norm, decomposition.unexplained)
        assert token.atoms[0].label == dictionary.label(token.atoms[0].atom)
    assert [token.position for token in dictionary.decompose(TEXT, [-1, 0])] == [len(shown) - 1, 0]
    assert dictionary.decompose(TEXT, -1).tokens == shown.tokens[-1:]


def test_shares_of_an_orthogonal_pursuit_add_up_to_what_is_explained(dictionary):
    settings = {"k": 4, "pursuit": "omp", "metadata": dictionary.metadata}
    shown = il.Dictionary(dictionary.atoms, dictionary.bias, **settings).decompose(TEXT)
    for token in shown:
        assert sum(term.share for term in token.atoms) == pytest.approx(1 - token.unexplained, abs=1e-4)


def test_what_a_notebook_shows_of_text_is_escaped(dictionary):
    shown = dictionary.decompose(TEXT)
    for table in (shown._repr_html_(), dictionary.top_contexts(3, 2, texts=[TEXT])._repr_html_()):
        assert "<b>" not in table
        assert "&lt;" in table
    assert "unexplained" in repr(shown)
    assert json.loads(shown.to_json())["tokens"][0]["atoms"][0]["share"] == shown[0].atoms[0].share


def test_top_contexts_are_the_strongest_held_out_tokens(dictionary, heldout):
    x, table = heldout
    cosine = dictionary.detect(x)[:, 7]
    contexts = dictionary.top_contexts(7, 5)
    best = cosine.argsort(descending=True)[:5]
    assert [context.strength for context in contexts] == pytest.approx(cosine[best].tolist(), abs=1e-5)
    assert tuple(context.prompt for context in contexts) == data_of(dictionary)[1].rows("heldout").prompts(table[best])
    coefficient = dictionary.encode(x).to_dense(dictionary.n_atoms)[:, 7]
    used = dictionary.top_contexts(7, 1000, by="coefficient")
    assert len(used) == int((coefficient != 0).sum())
    assert used[0].strength == pytest.approx(float(coefficient[coefficient.abs().argmax()]), rel=1e-5)
    assert f"atom 7, {dictionary.label(7)}" in repr(used)


def test_contexts_of_other_texts_and_of_texts_longer_than_the_model_reads(dictionary, prose, tiny_model_dir):
    for texts in (prose[:3], Dataset.from_dict({"text": prose[:3]})):
        assert len(dictionary.top_contexts(2, 9, texts=texts)) == 9
    data = data_of(dictionary)[1]
    rows = rows_of_texts(prose[:3], data)
    assert rows.context_size <= LONGEST_CONTEXT
    tokens = sum(encode(data.tokenizer, text, 0).shape[1] + 1 for text in prose[:3])
    assert tokens - len(rows) <= len(rows) * (rows.context_size - 1) <= tokens
    (context,) = dictionary.top_contexts(2, 1, texts=["a treaty of peace"])
    ids = encode(data.tokenizer, "a treaty of peace", 0)[0].tolist()
    x = activations(tiny_model_dir, LAYER, torch.tensor([[0, *ids]]))[0, 1:]
    assert context.strength == pytest.approx(float(dictionary.detect(x)[:, 2].max()), abs=1e-5)


def test_a_typical_coefficient_is_the_median_size_over_uses(dictionary, heldout):
    dense = dictionary.encode(heldout[0]).to_dense(dictionary.n_atoms)
    for atom in (0, 11, dictionary.n_atoms - 1):
        sizes = dense[:, atom][dense[:, atom] != 0].abs()
        expected = float(sizes.median()) if len(sizes) else 0.0
        assert dictionary.typical_coefficient(atom) == pytest.approx(expected, rel=1e-5)
        assert dictionary.typical_coefficient(atom, heldout[0]) == dictionary.typical_coefficient(atom)
    never = torch.zeros(3, dictionary.d_in) + dictionary.bias
    assert dictionary.typical_coefficient(0, never) == 0


def test_typical_coefficients_are_saved_and_belong_to_their_codes(dictionary, heldout, tmp_path):
    known = typical_coefficients(dictionary)
    dictionary.save(tmp_path / "d")
    loaded = il.load_dictionary(tmp_path / "d")
    loaded.metadata["data"] = None
    assert typical_coefficients(loaded) == known
    other = copied(dictionary, pursuit="omp")
    atom = max(range(other.n_atoms), key=lambda atom: known[atom])
    assert other.typical_coefficient(atom) == other.typical_coefficient(atom, heldout[0]) != known[atom]
    assert typical_coefficients(dictionary) is known


def test_typical_coefficients_are_measured_once_on_cached_activations(tiny_run, data_section, isolated_cache):
    first, again = il.load_dictionary(tiny_run), il.load_dictionary(tiny_run)
    first.metadata["data"] = again.metadata["data"] = data_section
    assert data_of(first)[1].stored("heldout") is not None
    measured = typical_coefficients(first)
    (file,) = (isolated_cache / "typical").iterdir()
    assert json.loads(file.read_text())[TYPICAL] == typical_coefficients(again) == measured
    damaged = file.read_text().replace(str(measured[0]), "7.5", 1)
    file.write_text(damaged)
    with pytest.raises(il.InputError, match="remove it, it is measured again"):
        typical_coefficients(il.Dictionary(first.atoms, first.bias, k=4, metadata={**again.metadata, "typical_of": ""}))


def test_the_model_is_loaded_once_and_runs(dictionary, tiny_run):
    model = il.load_model(dictionary)
    assert il.load_model(dictionary) is model
    _, cache = model.run_with_cache("treaty", names_filter=HOOK)
    assert cache[HOOK].shape[-1] == dictionary.d_in
    assert il.load_model(il.load_dictionary(tiny_run)) is not model


def test_the_model_of_module_names_is_one_of_transformers(tiny_model_dir, prose_file, tmp_path):
    run = fit_tiny(tmp_path / "run", tiny_model_dir, prose_file, "model.layers.1", loader="huggingface")
    model = il.load_model(il.load_dictionary(run))
    ids = torch.tensor([model.tokenizer("treaty")["input_ids"]])
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] == ids.shape[1] + 2


def test_what_cannot_be_looked_at_is_one_line(dictionary):
    bare = il.Dictionary(torch.eye(4), k=1)
    for call in (lambda: bare.decompose("a"), lambda: bare.top_contexts(0), lambda: il.load_model(bare)):
        with pytest.raises(il.InputError, match="does not name its model and hook point: load it from its run"):
            call()
    with pytest.raises(il.InputError, match="typical uses are measured on activations, give some as x: the dictionary"):
        bare.typical_coefficient(0)
    for call in (lambda: dictionary.top_contexts(10**6), lambda: dictionary.typical_coefficient(10**6)):
        with pytest.raises(il.InputError, match="there is no atom 1000000"):
            call()
    with pytest.raises(il.InputError, match="by must be one of"):
        dictionary.top_contexts(0, by="size")
    with pytest.raises(il.InputError, match="n must be at least 1, got 0"):
        dictionary.top_contexts(0, 0)
    with pytest.raises(il.InputError, match="the 2 texts have no tokens"):
        dictionary.top_contexts(0, texts=["", ""])
    wide = il.Dictionary(torch.eye(4), k=1, metadata=dictionary.metadata)
    with pytest.raises(il.InputError, match=r"has d_in 4 but .* it was fitted on another model"):
        wide.top_contexts(0, texts=["a treaty"])


def test_a_dictionary_of_an_array_has_no_model_or_text():
    fitted = il.fit_activations(
        torch.randn(200, 8), max_atoms=8, k=2, refine=None, calibration_tokens=64, progress=False
    )
    with pytest.raises(il.InputError, match="fitted on an array"):
        fitted.decompose("text")
