"""Reconstruction and sparsity against dense codes of all held-out activations at once."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import ActivationsDataModule
from itda_lightning.activations.batches import ActivationBatch
from itda_lightning.comparison import reconstruction
from itda_lightning.comparison.reconstruction import DENSE, encoding_rate, measure_reconstruction
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.evaluation.entries import Entry
from itda_lightning.saelens import from_sae, to_sae
from tests.fits import HOOK, data_settings
from tests.tiny_model import WIDTH

KINDS = ("mp", "omp", "nonnegative", "re-picks", "topk", "export")


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file):
    return ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, device="cpu"))


@pytest.fixture(scope="module")
def x(data):
    return torch.cat([batch.activations[HOOK] for batch in data.val_dataloader()])


def dictionary_of(x: torch.Tensor, n: int, **settings) -> Dictionary:
    """Every so many-th activation as an atom; the last atom is opposite to most activations."""
    bias = x.mean(0)
    atoms = torch.nn.functional.normalize(x[:: len(x) // n][:n] - bias, dim=1)
    return Dictionary(atoms, bias, **({"k": 5} | settings))


@pytest.fixture(scope="module")
def entries(x) -> dict[str, Entry]:
    dictionaries = {
        "mp": dictionary_of(x, 120),
        "omp": dictionary_of(x, 40, pursuit="omp"),
        "nonnegative": dictionary_of(x, 40, nonnegative=True),
        "re-picks": dictionary_of(x, 6, k=12),
    }
    entries = {name: Entry(name, to_sae(made), made) for name, made in dictionaries.items()}
    export = to_sae(dictionaries["re-picks"], "matching_pursuit")
    entries["export"] = Entry("export", export, from_sae(export))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=90, k=7))
        sae.W_enc.data[:, 5] = 0
        sae.b_enc.data[5] = -1e3  # never among the largest
        sae.b_dec.data = x.mean(0)
    entries["topk"] = Entry("topk", sae, None)
    return entries


@torch.no_grad()
def dense(entry: Entry, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(codes, reconstructions), of a signed dictionary always with one column an atom."""
    if entry.dictionary is None:
        code = entry.sae.encode(x)
        return code.double(), entry.sae.decode(code).double()
    made = entry.dictionary
    code = made.encode(x).to_dense(made.n_atoms).double()
    return code, code @ made.atoms.double() + made.bias.double()


def test_the_cases_are_what_they_are_called(entries, x):
    """Otherwise the tests here would prove little."""
    code = entries["re-picks"].dictionary.encode(x)
    assert (code.l0() < (code.support >= 0).sum(1)).float().mean() > 0.5
    assert (dense(entries["mp"], x)[0] < 0).any()
    assert not (dense(entries["nonnegative"], x)[0] < 0).any()
    assert entries["export"].sae.cfg.d_sae == 2 * entries["export"].dictionary.n_atoms


@pytest.mark.parametrize("kind", KINDS)
def test_every_measure_is_that_of_its_definition(entries, data, x, kind):
    measures, densities = measure_reconstruction(entries[kind], data, HOOK)
    code, x_hat = dense(entries[kind], x)
    known = x.double()
    share = (code != 0).double().mean(0)
    expected = {
        "l0": (code != 0).sum(1).double().mean(),
        "fvu": (known - x_hat).square().sum() / (known - known.mean(0)).square().sum(),
        "cossim": torch.nn.functional.cosine_similarity(known, x_hat).mean(),
        "norm_ratio": x_hat.norm(dim=1).sum() / known.norm(dim=1).sum(),
        "dead_share": (share == 0).double().mean(),
        "dense_share": (share > DENSE).double().mean(),
    }
    assert list(measures) == list(expected)
    for name, value in expected.items():
        assert measures[name].value == pytest.approx(float(value), rel=1e-4, abs=1e-7), name
    assert densities.tolist() == pytest.approx(share.tolist(), abs=1e-9)
    assert measures["dead_share"].error is measures["dense_share"].error is None
    assert 0 < measures["fvu"].error < measures["fvu"].value
    if kind == "topk":
        assert measures["dead_share"].value > 0
        assert densities[5] == 0
        assert 0 < measures["dense_share"].value < 1


def test_errors_and_variance_are_kept_by_document(entries, data, x):
    """The variance is about the mean of all activations, so that its sum is that of the measure."""
    rows = data.rows("heldout")
    document, known = rows.document[rows.kept], x.double()
    _, x_hat = dense(entries["topk"], x)
    found = measure_reconstruction(entries["topk"], data, HOOK)[0]["fvu"]
    parts = [document == number for number in document.unique().tolist()]
    errors, distances = (known - x_hat).square().sum(1), (known - known.mean(0)).square().sum(1)
    assert len(parts) > 1
    assert found.documents.above == pytest.approx([float(errors[part].sum()) for part in parts], rel=1e-5)
    assert found.documents.below == pytest.approx([float(distances[part].sum()) for part in parts], rel=1e-9)
    assert sum(found.documents.above) / sum(found.documents.below) == pytest.approx(found.value, rel=1e-9)


def test_an_export_has_the_measures_of_its_dictionary(entries, data):
    for one, other in zip(
        *(measure_reconstruction(entries[name], data, HOOK) for name in ("re-picks", "export")), strict=True
    ):
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other)
        else:
            assert one == other


@pytest.mark.parametrize("kind", ["mp", "topk"])
@pytest.mark.parametrize("block", [1, 1000])
def test_the_size_of_blocks_does_not_matter(entries, data, monkeypatch, kind, block):
    whole, densities = measure_reconstruction(entries[kind], data, HOOK)
    blocks = partial(reconstruction.used_with_reconstructions, block_numbers=block)
    monkeypatch.setattr(reconstruction, "used_with_reconstructions", blocks)
    cut, also = measure_reconstruction(entries[kind], data, HOOK)
    assert torch.equal(also, densities)
    for name, one in whole.items():
        assert cut[name].value == pytest.approx(one.value, rel=1e-6)
        assert one.error is cut[name].error is None or cut[name].error == pytest.approx(one.error, rel=1e-4)


def test_activations_that_cannot_be_used_are_left_out(entries, tiny_model_dir, prose_file, x, monkeypatch):
    data = ActivationsDataModule(**data_settings(tiny_model_dir, prose_file, device="cpu"))
    rows = data.rows("heldout")
    row, position = rows.kept.nonzero(as_tuple=True)
    table = rows.source_table(row, position)
    damaged = x.clone()
    damaged[:100] = 0
    damaged[150] = torch.inf
    parts = zip(damaged.split(50), table.split(50), strict=True)
    batches = [ActivationBatch({HOOK: part}, where) for part, where in parts]
    monkeypatch.setattr(data, "val_dataloader", lambda: batches)
    measures, densities = measure_reconstruction(entries["mp"], data, HOOK)
    left = torch.cat([x[100:150], x[151:]])
    code, x_hat = dense(entries["mp"], left)
    variance = (left.double() - left.double().mean(0)).square().sum()
    assert measures["fvu"].value == pytest.approx(float((left - x_hat).square().sum() / variance), rel=1e-4)
    assert densities.tolist() == pytest.approx((code != 0).double().mean(0).tolist(), abs=1e-9)


def test_the_rate_is_of_the_fastest_repetition(entries, data, monkeypatch):
    times = iter([0.0, 4.0, 10.0, 12.0, 20.0, 23.0])
    monkeypatch.setattr(reconstruction, "time", SimpleNamespace(perf_counter=lambda: next(times)))
    first = next(iter(data.val_dataloader()))
    assert encoding_rate(entries["topk"], data, HOOK) == len(first) / 2.0
