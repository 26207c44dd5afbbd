"""What SAELens's tutorials do with an SAE on a model: attribution, steering, ablation, its evals, its upload."""

import pytest
import torch
from sae_lens import ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.training.activation_scaler import ActivationScaler

from tests.saelens.kinds import each_itda, make_sae
from tests.saelens.test_attached import model, text_dataset  # noqa: F401  model is a fixture

TOKENS = torch.arange(3, 19).reshape(2, 8)


@each_itda
def test_attribution_on_a_frozen_model(make_dictionary, model, kind):  # noqa: F811
    sae = make_sae(make_dictionary, kind)
    name, acts = model.get_sae_hook_name(sae), {}

    def keep(values, hook):
        acts["post"] = values.detach().requires_grad_() if not values.requires_grad else values
        acts["post"].retain_grad()
        return acts["post"]

    frozen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(False)
    try:
        with model.saes(saes=[sae]), torch.enable_grad():
            logits = model.run_with_hooks(TOKENS, fwd_hooks=[(name, keep)])
            (logits[:, -1, 5] - logits[:, -1, 7]).sum().backward()
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)
    attribution = (acts["post"].grad * acts["post"]).detach()
    assert attribution.shape == (2, 8, sae.cfg.d_sae)
    assert attribution.any()
    # Attribution is the effect of small changes of the codes, to first order.
    step = 1e-3

    def smaller(values, hook):
        return values * (1 - step)

    with torch.no_grad():
        with model.saes(saes=[sae]):
            changed = model.run_with_hooks(TOKENS, fwd_hooks=[(name, smaller)])
        effect = ((logits - changed)[:, -1, 5] - (logits - changed)[:, -1, 7]).sum() / step
    torch.testing.assert_close(attribution.sum(), effect, rtol=0.05, atol=0.05)


@each_itda
def test_ablation_and_steering_of_one_latent(make_dictionary, model, kind):  # noqa: F811
    sae = make_sae(make_dictionary, kind)
    with torch.no_grad():
        clean, cache = model.run_with_cache_with_saes(TOKENS, saes=[sae])
        name = model.get_sae_hook_name(sae)
        latent = int(cache[name].abs().sum((0, 1)).argmax())

        def ablate(values, hook):
            values[:, :, latent] = 0.0
            return values

        ablated = model.run_with_hooks_with_saes(TOKENS, saes=[sae], fwd_hooks=[(name, ablate)])
        assert not torch.allclose(ablated, clean)
        strongest = cache[name][..., latent].max()
        hook = sae.cfg.metadata.hook_name
        steered = model.run_with_hooks(TOKENS, fwd_hooks=[(hook, lambda acts, hook: acts + 4 * sae.W_dec[latent])])
        assert not torch.allclose(steered, model(TOKENS))
    assert strongest > 0 or kind.endswith(("signed", "pruned"))


@pytest.mark.parametrize("kind", ["omp-view"])
def test_the_evals_of_saelens_count_nonnegative_codes_right(make_dictionary, model, kind):  # noqa: F811
    sae = make_sae(make_dictionary, kind)
    store = ActivationsStore.from_sae(model, sae, text_dataset(), streaming=False, store_batch_size_prompts=2)
    config = get_eval_everything_config(
        batch_size_prompts=2, n_eval_reconstruction_batches=1, n_eval_sparsity_variance_batches=1
    )
    metrics, features = run_evals(sae, store, model, ActivationScaler(), config)
    assert metrics["sparsity"]["l0"] == pytest.approx(5, abs=0.3)
    assert features["encoder_decoder_cosine_sim"] == pytest.approx([1.0] * 48, abs=1e-5)
    assert metrics["model_performance_preservation"]["ce_loss_with_sae"] > 0
