"""An exported dictionary attached to a language model, and read by SAELens's tools."""

import math

import pytest
import torch
from datasets import Dataset
from sae_lens import ActivationsStore
from sae_lens.analysis.sae_transformer_bridge import SAETransformerBridge
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from itda_lightning.saelens import to_sae
from tests.saelens.conftest import HOOK


@pytest.fixture(scope="module")
def model(tiny_model):
    bridge = SAETransformerBridge.boot_transformers(str(tiny_model), device="cpu")
    bridge.enable_compatibility_mode(disable_warnings=True, no_processing=True)
    return bridge


def test_the_cache_of_an_attached_model_holds_the_codes(make_dictionary, model):
    dictionary = make_dictionary()
    tokens = torch.arange(3, 19).reshape(2, 8)
    with torch.no_grad():
        activations = model.run_with_cache(tokens)[1][HOOK]
        sae = to_sae(dictionary)
        logits, cache = model.run_with_cache_with_saes(tokens, saes=[sae])
    expected = dictionary.encode(activations.reshape(-1, 16))
    codes = cache[model.get_sae_hook_name(sae)]
    assert codes.shape == (2, 8, 24)
    assert torch.equal(codes.reshape(-1, 24), expected.to_dense(24))
    reconstruction = cache[model.get_sae_hook_name(sae, "hook_sae_recons")]
    torch.testing.assert_close(reconstruction.reshape(-1, 16), dictionary.decode(expected))
    assert not torch.allclose(logits, model(tokens))


def test_the_error_term_gives_the_model_back(make_dictionary, model):
    tokens = torch.arange(3, 11)[None]
    with torch.no_grad():
        logits = model.run_with_saes(tokens, saes=[to_sae(make_dictionary())], use_error_term=True)
        torch.testing.assert_close(logits, model(tokens))


def test_the_loss_has_a_gradient_at_the_codes(make_dictionary, model):
    sae = to_sae(make_dictionary())
    gradients = []
    sae.hook_sae_acts_post.add_hook(lambda gradient, hook: gradients.append(gradient), dir="bwd")
    with model.saes(saes=[sae]):
        model(torch.arange(3, 11)[None]).square().mean().backward()
    assert gradients[0].shape == (1, 8, 24)
    assert gradients[0].any()


def text_dataset() -> Dataset:
    return Dataset.from_dict({"text": [" ".join(f"w{3 + (i * i + 5 * j) % 20}" for i in range(400)) for j in range(8)]})


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
@pytest.mark.parametrize("metadata", [None, {"hook_name": HOOK}], ids=["full", "hook name only"])
def test_a_store_can_be_made_from_the_sae(make_dictionary, model, architecture, metadata):
    settings = {} if metadata is None else {"metadata": metadata}
    sae = to_sae(make_dictionary(**settings), architecture)
    store = ActivationsStore.from_sae(
        model, sae, text_dataset(), context_size=8 if metadata else None, streaming=False, store_batch_size_prompts=2
    )
    assert store.get_activations(store.get_batch_tokens(2)).shape == (2, 8, 16)


def test_the_evals_of_saelens_run_on_it(make_dictionary, model):
    sae = to_sae(make_dictionary())
    store = ActivationsStore.from_sae(model, sae, text_dataset(), streaming=False, store_batch_size_prompts=2)
    config = get_eval_everything_config(
        batch_size_prompts=2, n_eval_reconstruction_batches=2, n_eval_sparsity_variance_batches=2
    )
    metrics, features = run_evals(sae, store, model, ActivationScaler(), config)
    assert 0 < metrics["sparsity"]["l0"] <= 5
    assert math.isfinite(metrics["model_performance_preservation"]["ce_loss_with_sae"])
    assert features["encoder_decoder_cosine_sim"] == pytest.approx([1.0] * 24, abs=1e-5)
