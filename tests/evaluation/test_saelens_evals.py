"""SAELens's evals as this package calls them, against a computation by hand on the tiny model."""

import dataclasses
import json
import logging
from collections.abc import Callable

import psutil
import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations, harvest
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.text.rows import Rows
from itda_lightning.activations.text.tokenizer import special_ids
from itda_lightning.errors import InputError
from itda_lightning.evaluation import earlier_passes
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.earlier_passes import KeptPredictions, ReadRows
from itda_lightning.evaluation.saelens_evals import evaluate_sae, rows_for_evals
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import to_sae
from tests import by_hand
from tests.runs import CONTEXT, HOOK, LAYER, VALIDATION_ROWS
from tests.tiny_model import BOS, EOS, VOCABULARY, WIDTH


@pytest.fixture(scope="module")
def data(tiny_run) -> ActivationsDataModule:
    return data_for(load_dictionary(tiny_run), None, HOOK, "cpu")


@pytest.fixture(scope="module")
def language_model(data) -> LanguageModel:
    return data.language_model


@pytest.fixture(scope="module")
def rows(data) -> Rows:
    return data.rows("heldout")


@pytest.fixture
def sae(tiny_run) -> SAE:
    return to_sae(load_dictionary(tiny_run))


def random_topk() -> SAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TopKSAE.from_dict(TopKSAEConfig(d_in=WIDTH, d_sae=48, k=5).to_dict() | {"metadata": {"hook_name": HOOK}})


def assert_as_by_hand(metrics: dict[str, float | int], expected: dict[str, float]) -> None:
    assert set(expected) <= set(metrics)
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=2e-4, abs=2e-5), name


@pytest.mark.parametrize("make", [None, random_topk], ids=["itda", "topk"])
def test_every_metric_is_that_of_a_computation_by_hand(make, sae, language_model, rows, tiny_model_dir):
    sae = make() if make else sae
    metrics, per_atom = evaluate_sae(sae, language_model, rows, model_batch_size=8, progress=False)
    expected = by_hand.evaluation(tiny_model_dir, LAYER, rows.tokens, [BOS, EOS], sae.encode, sae.decode)
    assert_as_by_hand(metrics, expected)
    assert metrics["tokens_evaluated"] == metrics["loss_tokens_evaluated"] == rows.tokens.numel()
    x = by_hand.activations(tiny_model_dir, LAYER, rows.tokens)[rows.kept]
    assert per_atom["feature_density"] == pytest.approx((sae.encode(x) != 0).double().mean(0).tolist(), abs=1e-6)


def test_the_rows_hold_what_is_masked(rows):
    """Otherwise the tests here would prove little."""
    assert (rows.tokens[:, 0] == BOS).all()
    assert (rows.tokens[:, 1:] == EOS).any()
    assert torch.equal(rows.kept, ~torch.isin(rows.tokens, torch.tensor([BOS, EOS])))


def disturbed(sae: SAE, where: Callable[[torch.Tensor], None]) -> SAE:
    """The SAE with other reconstructions somewhere."""
    decode = sae.decode

    def other(code: torch.Tensor) -> torch.Tensor:
        x_hat = decode(code).clone()
        where(x_hat)
        return x_hat

    sae.decode = other
    return sae


def test_what_happens_at_position_0_is_in_no_metric(sae, language_model, rows):
    undisturbed, _ = evaluate_sae(sae, language_model, rows, progress=False)
    metrics, _ = evaluate_sae(disturbed(sae, lambda x: x[:, 0].add_(1e4)), language_model, rows, progress=False)
    assert metrics == undisturbed
    metrics, _ = evaluate_sae(disturbed(sae, lambda x: x[:, 1].add_(1e4)), language_model, rows, progress=False)
    differing = {name for name in metrics if metrics[name] != undisturbed[name]}
    assert {"ce_loss_with_sae", "kl_div_with_sae", "fvu", "mse", "cossim", "l2_norm_out"} <= differing


def test_additional_special_tokens_are_masked_too(tiny_run, rows, tiny_model_dir):
    """SAELens's own list of special tokens lacks them."""
    other = data_for(load_dictionary(tiny_run), None, HOOK, "cpu").language_model
    token = int(rows.tokens[0, 5])
    other.tokenizer.add_special_tokens(
        {"additional_special_tokens": [other.tokenizer.convert_ids_to_tokens(token)]},
    )
    assert special_ids(other.tokenizer) == [BOS, EOS, token]
    sae = random_topk()
    metrics, _ = evaluate_sae(sae, other, rows, progress=False)
    expected = by_hand.evaluation(tiny_model_dir, LAYER, rows.tokens, [BOS, EOS, token], sae.encode, sae.decode)
    assert_as_by_hand(metrics, expected)


def test_two_calls_give_the_same_numbers(sae, language_model, rows):
    first = evaluate_sae(sae, language_model, rows, progress=False)
    assert evaluate_sae(sae, language_model, rows, progress=False) == first


@pytest.mark.parametrize(("n_rows", "batch"), [(7, 4), (6, 4), (1, 4), (5, 1)])
def test_every_row_counts_once_whatever_the_batch_size(sae, language_model, rows, tiny_model_dir, n_rows, batch):
    some = rows.select(torch.arange(n_rows) + 3)
    metrics, _ = evaluate_sae(sae, language_model, some, batch, progress=False)
    assert metrics["tokens_evaluated"] == n_rows * CONTEXT
    expected = by_hand.evaluation(tiny_model_dir, LAYER, some.tokens, [BOS, EOS], sae.encode, sae.decode)
    assert_as_by_hand(metrics, expected)


def test_losses_of_the_first_rows_and_variance_of_all(sae, language_model, rows, tiny_model_dir):
    metrics, _ = evaluate_sae(sae, language_model, rows, loss_rows=6, progress=False)
    assert (metrics["loss_tokens_evaluated"], metrics["tokens_evaluated"]) == (
        6 * CONTEXT,
        VALIDATION_ROWS * CONTEXT,
    )
    for some, is_loss in ((rows.tokens[:6], True), (rows.tokens, False)):
        expected = by_hand.evaluation(tiny_model_dir, LAYER, some, [BOS, EOS], sae.encode, sae.decode)
        part = {name: value for name, value in expected.items() if name.startswith(("ce_", "kl_")) == is_loss}
        assert_as_by_hand(metrics, part)


def test_variance_and_sparsity_are_those_of_the_fits_own_validation(tiny_run, sae, language_model, rows):
    (fitted,) = json.loads((tiny_run / "metrics.json").read_text())["hook_points"].values()
    metrics, per_atom = evaluate_sae(sae, language_model, rows, progress=False)
    assert metrics["fvu"] == pytest.approx(fitted["fvu"], rel=1e-4)
    assert metrics["l0"] == pytest.approx(fitted["l0"], rel=1e-6)
    assert per_atom["feature_density"].count(0.0) == fitted["dead_atoms"]


@pytest.mark.parametrize("first_position", [0, 1])
def test_stored_activations_and_kept_predictions_stand_for_passes(sae, language_model, rows, first_position):
    rows = dataclasses.replace(rows, first_position=first_position)
    model = KeptPredictions(language_model.model)
    expected = evaluate_sae(sae, language_model, rows, progress=False)
    for batch in (5, 32):  # of the harvest, which need not be those of the evals
        stored = harvest(language_model, rows, batch)
        known = evaluate_sae(sae, language_model, rows, progress=False, activations=stored, model=model)
        for name, value in expected[0].items():
            assert known[0][name] == pytest.approx(value, rel=1e-5), name
        assert known[1]["feature_density"] == pytest.approx(expected[1]["feature_density"], abs=1e-6)


@pytest.mark.parametrize("room", [0, 10, 32])
def test_predictions_are_kept_while_there_is_room(room, language_model, rows, monkeypatch):
    monkeypatch.setattr(earlier_passes, "KEPT_SHARE", room * CONTEXT * VOCABULARY * 4 / psutil.virtual_memory().total)
    model, calls = KeptPredictions(language_model.model), []
    predict = model.model
    monkeypatch.setattr(
        model, "model", lambda tokens, **options: calls.append(len(tokens)) or predict(tokens, **options)
    )
    batches = rows.tokens.split(8)
    options = {"return_type": "both", "loss_per_token": True}
    first, second = ([model(tokens, **options) for tokens in batches] for _ in range(2))
    assert len(calls) == 8 - room // 8
    for one, other in zip(first, second, strict=True):
        assert all(map(torch.equal, one, other))


def test_activations_of_heads_are_flat_as_they_are_stored(rows):
    stored = torch.randn(len(rows), CONTEXT, 8)
    read = ReadRows(rows, "blocks.0.attn.hook_z", [RowActivations(0, {"blocks.0.attn.hook_z": stored[:, 1:]})])
    tokens = read.get_batch_tokens(3)
    assert torch.equal(tokens, rows.tokens[:3])
    (values,) = read.run_with_cache(tokens, ["blocks.0.attn.hook_z"])[1].values()
    assert torch.equal(values.flatten(-2, -1)[:, 1:], stored[:3, 1:])


def test_metrics_come_in_the_order_in_which_they_are_read(sae, language_model, rows):
    metrics, _ = evaluate_sae(sae, language_model, rows.select(torch.arange(4)), progress=False)
    names = list(metrics)
    assert names[:4] == ["ce_loss_without_sae", "ce_loss_with_sae", "ce_loss_with_ablation", "ce_loss_score"]
    assert names[-2:] == ["tokens_evaluated", "loss_tokens_evaluated"]
    assert "explained_variance_legacy" not in names


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_with_the_time_it_will_take(sae, language_model, rows, capsys, recwarn, progress):
    evaluate_sae(sae, language_model, rows, progress=progress)
    err = capsys.readouterr().err
    assert ("Reconstruction Batches" in err and "Sparsity and Variance Batches" in err) == progress
    assert not [warning for warning in recwarn if "To copy construct" in str(warning.message)]


def test_rows_without_bos_begin_with_it_for_the_evals(tiny_run, sae, tiny_model_dir, caplog):
    dictionary = load_dictionary(tiny_run)
    dictionary.metadata["data"]["prepend_bos"] = False
    data = data_for(dictionary, None, HOOK, "cpu")
    rows = data.rows("heldout")
    before = rows.tokens.clone()
    assert not (before[:, 0] == BOS).any()
    with caplog.at_level(logging.WARNING):
        changed = rows_for_evals(rows, data.tokenizer)
    assert "first token is replaced" in caplog.text
    assert (changed.tokens[:, 0] == BOS).all()
    assert torch.equal(changed.tokens[:, 1:], before[:, 1:])
    assert torch.equal(rows.tokens, before)
    metrics, _ = evaluate_sae(sae, data.language_model, changed, progress=False)
    expected = by_hand.evaluation(tiny_model_dir, LAYER, changed.tokens, [BOS, EOS], sae.encode, sae.decode)
    assert_as_by_hand(metrics, expected)


def test_rows_that_begin_with_a_special_token_stay_as_they_are(rows, data, caplog):
    assert rows_for_evals(rows, data.tokenizer) is rows
    assert caplog.text == ""


def test_a_tokenizer_without_bos_gives_eos_and_one_without_both_is_refused(rows, tiny_model_dir):
    plain = rows.select(torch.arange(3))
    plain.tokens[:, 0] = 7
    tokenizer = LanguageModelName(str(tiny_model_dir)).load_tokenizer()
    tokenizer.bos_token = None
    assert (rows_for_evals(plain, tokenizer).tokens[:, 0] == EOS).all()
    tokenizer.eos_token = None
    with pytest.raises(InputError, match=r"neither a BOS nor an EOS token.*set one"):
        rows_for_evals(plain, tokenizer)


def standard(d_in: int = WIDTH, hook: str = HOOK, **settings: str) -> SAE:
    config = StandardSAEConfig(d_in=d_in, d_sae=4, **settings)
    config.metadata.hook_name = hook
    return StandardSAE(config)


@pytest.mark.parametrize(
    ("sae", "message"),
    [
        (standard(d_in=12), rf"d_in 12 but {HOOK} of .* has {WIDTH} dimensions: it was made for another model"),
        (standard(hook="blocks.2.hook_resid_post"), rf"reads hook point 'blocks.2.*loaded for \['{HOOK}'\]"),
        (standard(normalize_activations="expected_average_only_in"), "expects scaled activations: fold the scaling"),
    ],
    ids=["width", "hook point", "normalisation"],
)
def test_an_sae_that_does_not_fit_is_refused(sae, message, language_model, rows):
    with pytest.raises(InputError, match=message):
        evaluate_sae(sae, language_model, rows)


def test_nothing_to_evaluate_on_is_refused(sae, language_model, rows):
    for changes in ({"loss_rows": 0}, {"model_batch_size": 0}):
        with pytest.raises(InputError, match=r"(rows|model_batch_size) must be at least 1, got 0"):
            evaluate_sae(sae, language_model, rows, **changes)


@pytest.mark.parametrize("make", [None, random_topk], ids=["itda", "topk"])
def test_activations_that_are_not_finite_are_refused(make, sae, language_model, rows) -> None:
    sae = make() if make else sae
    embedding = language_model.model.original_model.get_input_embeddings()
    handle = embedding.register_forward_hook(lambda module, tokens, embedded: torch.full_like(embedded, torch.inf))
    refused = r"held-out activations at blocks.1.* are not finite, .*: use model_dtype=float32"
    with handle, pytest.raises(InputError, match=refused):
        evaluate_sae(sae, language_model, rows, model_batch_size=8, progress=False)
