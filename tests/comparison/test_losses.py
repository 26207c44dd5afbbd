"""Losses with replaced activations, against SAELens's evals and against `transformers` alone."""

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning import ActivationsDataModule
from itda_lightning.comparison import losses
from itda_lightning.comparison.losses import LossMeter
from itda_lightning.errors import InputError
from itda_lightning.evaluation.saelens_evals import evaluate_sae
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import to_sae
from tests import by_hand
from tests.runs import CONTEXT, HOOK, LAYER
from tests.tiny_model import BOS, EOS, WIDTH

MODULE = "model.layers.1"


def make_data(model, prose, **changes) -> ActivationsDataModule:
    settings = {"hook_names": [HOOK], "device": "cpu", "context_size": CONTEXT, "training_tokens": 120 * CONTEXT}
    return ActivationsDataModule(str(model), dataset=str(prose), **(settings | {"validation_tokens": 512} | changes))


@pytest.fixture(scope="module")
def data(tiny_model_dir, prose_file):
    return make_data(tiny_model_dir, prose_file)


@pytest.fixture(scope="module")
def rows(data):
    return data.rows("heldout").select(torch.arange(18))


@pytest.fixture(scope="module")
def meter(data, rows):
    return LossMeter(data.language_model, rows, HOOK, 4)


def topk(hook_name: str = HOOK) -> SAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sae = TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=48, k=5))
    sae.cfg.metadata.hook_name = hook_name
    return sae


@pytest.fixture(scope="module")
def saes(tiny_run):
    return {"itda": to_sae(load_dictionary(tiny_run)), "topk": topk()}


@pytest.fixture(scope="module")
def of_topk(meter, saes):
    return meter.measure(saes["topk"])


def assert_same(measures, expected, rel=1e-5):
    assert set(measures) == set(expected)
    for name, estimate in measures.items():
        assert estimate.value == pytest.approx(expected[name].value, rel=rel), name
        assert estimate.error == pytest.approx(expected[name].error, rel=1e-2), name


@pytest.mark.parametrize("kind", ["itda", "topk"])
def test_means_are_those_of_saelens(kind, meter, saes, data, rows):
    measures = meter.measure(saes[kind])
    theirs, _ = evaluate_sae(saes[kind], data.language_model, rows, 6, progress=False)
    increase = measures.pop("ce_loss_increase")
    assert increase.value == pytest.approx(theirs["ce_loss_with_sae"] - theirs["ce_loss_without_sae"], abs=2e-3)
    assert increase.error > 0
    assert len(measures) == 7
    for name, estimate in measures.items():
        assert estimate.value == pytest.approx(theirs[name], rel=2e-4), name
        # A stream of zeros predicts every token alike.
        assert (estimate.error > 0) == (name != "ce_loss_with_ablation"), name
        assert estimate.error < 0.5 * abs(estimate.value), name


@pytest.mark.parametrize(("loader", "hook_name"), [("bridge", HOOK), ("huggingface", MODULE)])
def test_every_loader_gives_the_figures_of_transformers_alone(loader, hook_name, tiny_model_dir, prose_file, rows):
    data = make_data(tiny_model_dir, prose_file, loader=loader, hook_names=[hook_name])
    assert data.rows("heldout").select(torch.arange(18)).fingerprint() == rows.fingerprint()
    sae = topk(hook_name)
    measures = LossMeter(data.language_model, rows, hook_name, 5).measure(sae)
    expected = by_hand.evaluation(tiny_model_dir, LAYER, rows.tokens, [BOS, EOS], sae.encode, sae.decode)
    for name, estimate in measures.items():
        if name != "ce_loss_increase":
            assert estimate.value == pytest.approx(expected[name], rel=2e-4), name


def test_tokens_that_are_not_kept_stay_as_they_are_and_do_not_count(data, rows, saes, of_topk):
    """More than the special tokens that SAELens leaves out: whatever the mask of the rows says."""
    fewer = rows.select(torch.arange(len(rows)))
    fewer.kept[:, 5:] = False
    measures = LossMeter(data.language_model, fewer, HOOK).measure(saes["topk"])
    short = rows.select(torch.arange(len(rows)))
    expected = by_hand.evaluation(
        data.hparams["model"], LAYER, short.tokens[:, :6], [BOS, EOS], saes["topk"].encode, saes["topk"].decode
    )
    # The prediction at position 4 is of the token at 5, the last that a row of six has.
    assert measures["ce_loss_without_sae"].value == pytest.approx(expected["ce_loss_without_sae"], rel=2e-4)
    assert measures["ce_loss_with_sae"].value == pytest.approx(expected["ce_loss_with_sae"], rel=2e-4)
    assert measures["ce_loss_with_sae"].value != of_topk["ce_loss_with_sae"].value


@pytest.mark.parametrize("batch", [1, 3, 7, 50])
def test_rows_in_a_forward_pass_do_not_matter(batch, data, rows, saes, of_topk):
    assert_same(LossMeter(data.language_model, rows, HOOK, batch).measure(saes["topk"]), of_topk)


def test_probabilities_are_of_few_positions_at_a_time(data, rows, saes, of_topk, monkeypatch):
    """So that a large vocabulary takes no more memory; the last part of a batch is shorter."""
    sizes, log_softmax = [], torch.log_softmax
    monkeypatch.setattr(losses, "PREDICTED_ENTRIES", 5 * 384)
    monkeypatch.setattr(torch, "log_softmax", lambda x, dim: sizes.append(len(x)) or log_softmax(x, dim=dim))
    assert_same(LossMeter(data.language_model, rows, HOOK, 4).measure(saes["topk"]), of_topk)
    assert max(sizes) == 5 > min(sizes)


def logits_bytes(n_rows: int) -> int:
    return n_rows * CONTEXT * 384 * 4


@pytest.mark.parametrize("room", [0, 10, 17.5])
def test_predictions_of_the_model_are_made_again_where_they_cannot_be_kept(
    room, data, rows, saes, of_topk, monkeypatch
):
    """The last of these batches has 2 rows: it alone would fit the memory that all together do not."""
    total = losses.psutil.virtual_memory().total
    monkeypatch.setattr(losses, "KEPT_SHARE", logits_bytes(room) / total)
    meter = LossMeter(data.language_model, rows, HOOK, 4)
    assert meter._own == []
    assert_same(meter.measure(saes["topk"]), of_topk, rel=1e-6)


def test_predictions_of_the_model_are_kept_where_they_can_be(data, rows, saes, of_topk, monkeypatch):
    total = losses.psutil.virtual_memory().total
    monkeypatch.setattr(losses, "KEPT_SHARE", logits_bytes(18.5) / total)
    meter = LossMeter(data.language_model, rows, HOOK, 4)
    assert [len(own) for own in meter._own] == [4, 4, 4, 4, 2]
    passes = []
    forward = meter._logits
    monkeypatch.setattr(meter, "_logits", lambda part, replace: (passes.append(replace), forward(part, replace))[1])
    assert_same(meter.measure(saes["topk"]), of_topk, rel=1e-9)
    assert len(passes) == 5
    assert None not in passes


def test_sums_are_kept_by_document(data, rows, saes, of_topk):
    """If two documents are called one, their sums are added."""
    numbers = rows.document[rows.kept].unique()
    joined = rows.select(torch.arange(len(rows)))
    joined.document[joined.document == numbers[1]] = numbers[0]
    fewer = LossMeter(data.language_model, joined, HOOK, 4).measure(saes["topk"])
    for name, found in of_topk.items():
        assert len(found.documents.above) == len(numbers) > 2
        assert sum(found.documents.above) / sum(found.documents.below) == pytest.approx(found.value, rel=1e-9)
        for part in ("above", "below"):
            first, second, *others = getattr(found.documents, part)
            assert getattr(fewer[name].documents, part) == pytest.approx((first + second, *others), rel=1e-6), name
    kept = rows.document[:, :-1][rows.kept[:, :-1]]
    counts = [int((kept == number).sum()) for number in numbers]
    assert list(of_topk["ce_loss_increase"].documents.below) == counts
    assert (
        list(of_topk["kl_div_with_sae"].documents.below)
        == rows.document[rows.kept].unique(return_counts=True)[1].tolist()
    )


def test_a_perfect_replacement_loses_nothing(meter, monkeypatch):
    sae = topk()
    monkeypatch.setattr(sae, "encode", lambda x: x)
    monkeypatch.setattr(sae, "decode", lambda x: x)
    measures = meter.measure(sae)
    assert measures["ce_loss_with_sae"].value == pytest.approx(measures["ce_loss_without_sae"].value, rel=1e-9)
    assert measures["kl_div_with_sae"].value == pytest.approx(0, abs=1e-9)
    assert (measures["ce_loss_score"].value, measures["kl_div_score"].value) == pytest.approx((1, 1))


def test_the_model_alone_is_the_same_for_all_entries(meter, saes):
    itda, topk = (meter.measure(sae) for sae in saes.values())
    for name in ("ce_loss_without_sae", "ce_loss_with_ablation", "kl_div_with_ablation"):
        assert itda[name] == topk[name]
    assert itda["ce_loss_with_sae"] != topk["ce_loss_with_sae"]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_reconstructions_that_are_not_finite_are_refused(meter, value):
    sae = topk()
    sae.b_dec.data[3] = value
    with pytest.raises(InputError, match="make the model's loss infinite or undefined: check its weights"):
        meter.measure(sae)


def test_rows_of_one_document_are_refused_before_the_model_runs(data, rows, monkeypatch):
    of_one = rows.select((rows.document == rows.document[0, 5]).all(1).nonzero()[:1, 0])
    assert len(of_one) == 1
    monkeypatch.setattr(data.language_model.model, "run_with_hooks", pytest.fail)
    with pytest.raises(InputError, match="are of 1 document, so no standard error can be computed"):
        LossMeter(data.language_model, of_one, HOOK)
