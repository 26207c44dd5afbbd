"""ITDASAE by itself: the same codes as the dictionary, SAELens's hooks and folds, precision, the cached Gram."""

import importlib

import pytest
import torch
from sae_lens.registry import SAE_CLASS_REGISTRY

from itda_lightning.errors import InputError
from itda_lightning.saelens import ITDASAE, ITDASAEConfig, architecture, to_sae

SETTINGS = [
    {"pursuit": pursuit, "nonnegative": nonnegative}
    for pursuit in ("mp", "omp", "gomp")
    for nonnegative in (False, True)
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_codes_and_reconstructions_are_those_of_the_dictionary(make_dictionary, activations, settings):
    dictionary = make_dictionary(**settings)
    sae = to_sae(dictionary)
    code = dictionary.encode(activations)
    assert torch.equal(sae.encode(activations), code.to_dense(24))
    torch.testing.assert_close(sae(activations), dictionary(activations))


def test_leading_dimensions_are_kept(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    codes = sae.encode(activations)
    assert torch.equal(sae.encode(activations.reshape(5, 8, 16)), codes.reshape(5, 8, 24))
    assert sae.decode(codes.reshape(5, 8, 24)).shape == (5, 8, 16)
    assert sae.encode(activations[:0]).shape == (0, 24)


def test_heads_are_flattened_for_hook_z_and_come_back(make_dictionary, activations):
    dictionary = make_dictionary(metadata={"hook_name": "blocks.0.attn.hook_z"})
    sae = to_sae(dictionary)
    assert sae.cfg.reshape_activations == "hook_z"
    heads = activations.reshape(5, 8, 4, 4)
    codes = sae.encode(heads)
    assert torch.equal(codes, dictionary.encode(activations).to_dense(24).reshape(5, 8, 24))
    torch.testing.assert_close(sae(heads), dictionary(activations).reshape(5, 8, 4, 4))


def test_hooks_see_the_codes_and_the_reconstruction(make_dictionary, activations):
    dictionary = make_dictionary()
    output, cache = to_sae(dictionary).run_with_cache(activations)
    codes = dictionary.encode(activations).to_dense(24)
    assert torch.equal(cache["hook_sae_input"], activations)
    assert torch.equal(cache["hook_sae_acts_pre"], codes)
    assert torch.equal(cache["hook_sae_acts_post"], codes)
    torch.testing.assert_close(cache["hook_sae_recons"], dictionary(activations))
    assert torch.equal(cache["hook_sae_output"], output)


def test_changing_a_code_in_a_hook_changes_the_reconstruction(make_dictionary, activations):
    dictionary = make_dictionary()
    sae = to_sae(dictionary)
    output = sae.run_with_hooks(
        activations, fwd_hooks=[("hook_sae_acts_post", lambda acts, hook: torch.zeros_like(acts))]
    )
    torch.testing.assert_close(output, dictionary.bias.expand_as(output))


def test_without_a_bias_at_the_input_none_is_added_at_the_output(make_dictionary, activations):
    dictionary = make_dictionary()
    sae = to_sae(dictionary)
    sae.cfg.apply_b_dec_to_input = False
    torch.testing.assert_close(sae(activations), dictionary(activations + dictionary.bias) - dictionary.bias)


def test_encoder_weights_are_the_atoms_transposed_and_not_saved(make_dictionary):
    sae = to_sae(make_dictionary())
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert set(sae.state_dict()) == {"W_dec", "b_dec"}


def test_a_new_sae_has_unit_rows():
    sae = ITDASAE(ITDASAEConfig(d_in=16, d_sae=24, k=3))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    assert (sae.encode(torch.randn(4, 16)) != 0).sum(-1).max() <= 3


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
def test_half_precision_reconstructs_as_well_as_single(make_dictionary, activations, pursuit):
    dictionary = make_dictionary(n=64, k=12, pursuit=pursuit)
    sae = to_sae(dictionary).to(dtype=torch.bfloat16)
    assert sae.encode(activations).dtype == sae(activations).dtype == torch.bfloat16
    exact = (dictionary(activations) - activations).square().sum()
    rounded = (sae(activations).float() - activations).square().sum()
    assert rounded < 1.05 * exact


@pytest.mark.parametrize(("dtype", "longer"), [(torch.bfloat16, 1.0), (torch.bfloat16, 1.02), (torch.float16, 0.98)])
def test_half_precision_codes_account_for_the_norms_of_the_stored_rows(make_dictionary, dtype, longer):
    sae = to_sae(make_dictionary()).to(dtype=dtype)
    sae.W_dec.data *= longer  # norms that are off by more than a code is rounded
    rows = sae.W_dec.detach().double()
    assert (abs(rows.norm(dim=1) - 1) > (0.015 if longer != 1 else 1e-4)).sum() > 12
    sae.cfg.k = 1
    x = 1000 * sae.W_dec.detach() + sae.b_dec.detach()
    seen = (x - sae.b_dec.detach()).double()
    codes = sae.encode(x).double()
    best = (seen * rows).sum(-1) / rows.square().sum(-1)
    # One rounding of a code: half of the distance between two numbers.
    torch.testing.assert_close(codes.diag(), best, rtol=torch.finfo(dtype).eps / 2 * 1.01, atol=0)


def test_autocast_does_not_change_the_codes(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        codes = sae.encode(activations)
    assert torch.equal(codes, sae.encode(activations))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_activations_that_are_not_finite_are_refused(make_dictionary, activations, value):
    x = activations.clone()
    x[3, 1] = value
    with pytest.raises(ValueError, match=r"^x has 1 non-finite rows, the first is row 3: drop them$"):
        to_sae(make_dictionary()).encode(x)


def test_the_prepared_atoms_are_kept_between_calls_and_get_their_gram_once_it_pays(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    codes = sae.encode(activations[:1])
    prepared = sae._stored.prepared
    assert prepared.gram is None
    sae.encode(activations.repeat(20, 1))
    assert sae._stored.prepared is prepared
    gram = prepared.gram
    assert gram is not None
    assert torch.equal(sae.encode(activations[:1]), codes)
    assert sae._stored.prepared.gram is gram


@pytest.mark.parametrize("change", ["cast and cast back", "load", "in place", "in inference mode", "assign"])
def test_the_gram_follows_the_weights(make_dictionary, activations, change):
    sae = to_sae(make_dictionary())
    other = to_sae(make_dictionary())
    other.W_dec.data = other.W_dec.data.flip(0).roll(3, dims=1).contiguous()
    sae.encode(activations)
    if change == "cast and cast back":
        for _ in range(5):
            sae.to(dtype=torch.bfloat16)
            sae.to(dtype=torch.float32)
        other = to_sae(make_dictionary())
        other.load_state_dict(sae.state_dict())
    elif change == "load":
        sae.load_state_dict(other.state_dict())
    elif change == "assign":
        sae.load_state_dict({name: tensor.clone() for name, tensor in other.state_dict().items()}, assign=True)
    else:
        with torch.inference_mode() if change == "in inference mode" else torch.no_grad():
            sae.W_dec.copy_(other.W_dec)
    assert torch.equal(sae.encode(activations), other.encode(activations))


def test_weights_loaded_in_inference_mode_work(make_dictionary, activations):
    dictionary = make_dictionary()
    with torch.inference_mode():
        sae = to_sae(dictionary)
        codes = sae.encode(activations)
    assert torch.equal(codes, sae.encode(activations))


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_codes_have_their_gradient_on_a_fixed_support(make_dictionary, activations, settings):
    sae = to_sae(make_dictionary(dtype=torch.float64, **settings))
    x = activations[:2].double().requires_grad_()
    assert torch.equal(sae.encode(x), sae.encode(x.detach()))
    assert torch.autograd.gradcheck(sae.encode, x)
    assert sae.W_dec.grad is None


def test_a_code_that_ended_early_has_a_gradient_too(make_dictionary):
    dictionary = make_dictionary(dtype=torch.float64, pursuit="omp")
    x = (2 * dictionary.atoms[:3] + dictionary.bias).requires_grad_()
    codes = to_sae(dictionary).encode(x)
    assert (codes != 0).sum() == 3
    codes.sum().backward()
    torch.testing.assert_close(x.grad, dictionary.atoms[:3])


def test_folding_decoder_norms_changes_nothing(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    weights, codes = sae.W_dec.clone(), sae.encode(activations)
    sae.fold_W_dec_norm()
    assert torch.equal(sae.fold_and_get_W_dec_norm(), torch.ones(24))
    assert torch.equal(sae.W_dec, weights)
    assert torch.equal(sae.encode(activations), codes)


def test_folding_a_scale_keeps_supports_and_reconstructions(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    sae.cfg.normalize_activations = "expected_average_only_in"
    scaled_codes, scaled_output = sae.encode(4.0 * activations), sae(4.0 * activations)
    sae.fold_activation_norm_scaling_factor(4.0)
    assert sae.cfg.normalize_activations == "none"
    torch.testing.assert_close(sae.encode(activations), scaled_codes / 4.0)
    torch.testing.assert_close(sae(activations), scaled_output / 4.0)
    with pytest.raises(InputError, match=r"scaling factor must be positive, got -1"):
        sae.fold_activation_norm_scaling_factor(-1.0)


def test_folding_a_whitening_is_refused(make_dictionary):
    with pytest.raises(InputError, match=r"whitening cannot be folded into an itda SAE.*not whitened"):
        to_sae(make_dictionary()).fold_activation_whitening(torch.zeros(16), torch.eye(16), torch.eye(16))


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale", "covariance_whitening"])
def test_normalisation_of_inputs_is_refused(normalisation):
    with pytest.raises(InputError, match=f"cannot have normalize_activations='{normalisation}'.*use one of"):
        ITDASAEConfig(d_in=4, d_sae=8, k=2, normalize_activations=normalisation)


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match=r"pursuit must be one of .*got 'lasso'"):
        ITDASAEConfig(d_in=4, d_sae=8, k=2, pursuit="lasso")
    with pytest.raises(ValueError, match=r"k must be at least 1, got 0"):
        ITDASAEConfig(d_in=4, d_sae=8, k=0)


def test_reloading_the_module_registers_its_new_class():
    before = SAE_CLASS_REGISTRY["itda"]
    try:
        reloaded = importlib.reload(architecture)
        assert SAE_CLASS_REGISTRY["itda"] == (reloaded.ITDASAE, reloaded.ITDASAEConfig)
    finally:
        SAE_CLASS_REGISTRY["itda"] = before
        vars(architecture).update(ITDASAE=before[0], ITDASAEConfig=before[1])


def test_the_architecture_of_another_package_is_not_replaced(monkeypatch):
    class Foreign:
        pass

    monkeypatch.setitem(SAE_CLASS_REGISTRY, "itda", (Foreign, Foreign))
    with pytest.raises(ValueError, match=r"itda already registered"):
        importlib.reload(architecture)
