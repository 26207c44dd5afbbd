"""What a page shows of texts and random atoms: the numbers of the held-out activations, measured another way."""

import pytest
import torch

from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.page_results import READ_ROWS, WORST, measure_for_page
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.run_results import RunResults
from itda_lightning.saelens.controls import random_dictionary
from tests.runs import HOOK, K, fit_tiny


@pytest.fixture(scope="module")
def dictionary(tiny_run):
    return load_dictionary(tiny_run)


@pytest.fixture(scope="module")
def data(dictionary):
    return data_for(dictionary, None, HOOK)


@pytest.fixture(scope="module")
def results(dictionary, data) -> RunResults:
    return measure_for_page(dictionary, data, HOOK, {})


@pytest.fixture(scope="module")
def x(data) -> torch.Tensor:
    return torch.cat([x for x, _ in data.heldout_batches(HOOK)])


def test_texts_to_read_hold_the_codes_of_their_tokens(results, dictionary, data, x):
    rows = data.rows("heldout")
    codes = dictionary.encode(x).to_dense(dictionary.n_atoms)
    first = rows.kept.sum(1).cumsum(0) - rows.kept.sum(1)
    assert len(results.reading) == READ_ROWS
    for number, text in enumerate(results.reading):
        row = number * len(rows) // READ_ROWS
        assert list(text.pieces) == rows.pieces(row)
        kept = rows.kept[row].nonzero()[:, 0].tolist()
        assert [place for place, code in enumerate(text.codes) if code is not None] == kept
        for place, code in enumerate([code for code in text.codes if code is not None], start=int(first[row])):
            assert code.norm == pytest.approx(float(x[place].norm()), rel=1e-4)
            assert sorted(code.atoms) == codes[place].nonzero()[:, 0].tolist()
            assert code.coefficients == pytest.approx(codes[place][list(code.atoms)].tolist(), rel=1e-3, abs=1e-4)


def test_the_worst_explained_tokens_come_first(results, dictionary, x):
    left = (x - dictionary(x)).square().sum(1) / (x - dictionary.bias).square().sum(1)
    expected = left.sort(descending=True).values[:WORST].tolist()
    assert [token.unexplained for token in results.worst] == pytest.approx(expected, rel=1e-3)


def test_random_atoms_are_measured_if_the_activations_are_on_disk(results, tiny_model_dir, prose_file, tmp_path):
    assert "fvu_random" not in results.metrics
    run = fit_tiny(tmp_path / "run", tiny_model_dir, prose_file, cache_dir=tmp_path / "cache")
    dictionary = load_dictionary(run)
    data = data_for(dictionary, None, HOOK)
    shown = measure_for_page(dictionary, data, HOOK, {}).metrics
    assert list(shown)[:5] == ["n_atoms", "fvu", "fvu_random", "unexplained", "unexplained_random"]
    random = random_dictionary(data, HOOK, dictionary.n_atoms, K, "mp", dictionary.bias)
    x = torch.cat([x for x, _ in data.heldout_batches(HOOK)])
    left = (x - random(x)).double().square().sum(1)
    fvu = left.sum() / (x - x.mean(0)).double().square().sum()
    assert shown["fvu_random"] == pytest.approx(float(fvu), rel=1e-4)
    shares = left / (x - random.bias).double().square().sum(1)
    assert shown["unexplained_random"] == pytest.approx(float(shares.mean()), rel=1e-4)
