"""What SAELens's tools and its own tests expect of every architecture, of all kinds of SAE that a dictionary becomes.

``docs/saelens.md`` tells what differs by design.
"""

import copy
import json

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.topk_sae import TopK

from itda_lightning.saelens import ITDASAE, ITDASAEConfig
from tests.saelens.kinds import each_itda, each_kind, make_sae


@each_kind
def test_any_leading_shape_and_dtype_is_encoded(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    codes = sae.encode(activations)
    assert codes.shape == (40, sae.cfg.d_sae)
    torch.testing.assert_close(sae.encode(activations.reshape(5, 2, 4, 16)), codes.reshape(5, 2, 4, -1))
    torch.testing.assert_close(sae.encode(activations.double()), codes)
    assert sae.encode(activations.bfloat16()).dtype == torch.float32
    assert sae.encode(activations[:0]).shape == (0, sae.cfg.d_sae)
    torch.testing.assert_close(sae(activations), sae.decode(codes))
    transposed = activations.T.contiguous().T
    torch.testing.assert_close(sae.encode(transposed), codes)


@each_itda
def test_one_activation_is_encoded_without_a_batch(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    torch.testing.assert_close(sae.encode(activations[0]), sae.encode(activations[:1])[0])


@each_kind
def test_the_error_term_gives_the_input_back_and_only_hooks_change_the_output(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    sae._use_error_term = True
    output, cache = sae.run_with_cache(activations)
    torch.testing.assert_close(output, activations)
    torch.testing.assert_close(cache["hook_sae_error"], activations - cache["hook_sae_recons"])
    moved = sae.run_with_hooks(activations, fwd_hooks=[("hook_sae_recons", lambda acts, hook: acts + 1)])
    torch.testing.assert_close(moved, activations + 1)


@each_itda
def test_every_hook_sees_what_it_stands_for(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    output, cache = sae.run_with_cache(activations)
    names = {"hook_sae_input", "hook_sae_acts_pre", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_output"}
    assert set(cache) == names
    assert torch.equal(cache["hook_sae_input"], activations)
    assert torch.equal(cache["hook_sae_acts_post"], sae.encode(activations))
    assert torch.equal(cache["hook_sae_output"], output)


def test_the_stock_architecture_shows_no_codes_to_hooks(make_dictionary, activations):
    _, cache = make_sae(make_dictionary, "matching_pursuit").run_with_cache(activations)
    assert "hook_sae_acts_post" not in cache, "SAELens mends this: say so in docs/saelens.md"


@each_kind
def test_copies_states_and_files_give_the_same_codes(make_dictionary, activations, kind, tmp_path):
    sae = make_sae(make_dictionary, kind)
    codes = sae.encode(activations)
    assert set(sae.state_dict()) == {"W_dec", "b_dec"}
    copied = copy.deepcopy(sae)
    assert torch.equal(copied.encode(activations), codes)
    copied.W_dec.data.copy_(copied.W_dec.data.roll(1, dims=1))
    assert torch.equal(sae.encode(activations), codes)
    other = type(sae)(copy.deepcopy(sae.cfg))
    other.load_state_dict(sae.state_dict())
    assert torch.equal(other.encode(activations), codes)
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is type(sae)
    assert loaded.cfg.to_dict() == sae.cfg.to_dict()
    assert torch.equal(loaded.encode(activations), codes)
    half = SAE.load_from_disk(tmp_path, dtype="bfloat16")
    assert half.encode(activations).dtype == half.W_dec.dtype == torch.bfloat16


@each_kind
def test_moves_change_dtype_and_device_of_everything(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    double = copy.deepcopy(sae).to(torch.float64)
    assert (double.dtype, double.cfg.dtype, double.W_dec.dtype) == (torch.float64, "float64", torch.float64)
    assert double.encode(activations).dtype == torch.float64
    torch.testing.assert_close(double(activations).float(), sae(activations))
    assert sae.to("cpu").device == torch.device("cpu")
    assert sae.to("meta").W_dec.device.type == "meta"


@each_itda
def test_the_configuration_makes_the_round_trip_and_prints_in_a_line(make_dictionary, kind, tmp_path):
    sae = make_sae(make_dictionary, kind, n=400)
    sae.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    for config in (sae.cfg, loaded.cfg, copy.deepcopy(loaded.cfg)):
        for printed in (config, config.metadata, config.to_dict()):
            assert len(str(printed)) < 2000, str(printed)[:3000]
    assert ITDASAEConfig.from_dict(sae.cfg.to_dict()) == sae.cfg
    assert json.loads((tmp_path / "cfg.json").read_text()) == json.loads(json.dumps(sae.cfg.to_dict()))
    assert len(loaded.cfg.metadata.itda["prompts"]) == 400


@each_kind
def test_the_encoder_is_the_decoder_and_an_assignment_changes_nothing(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    codes = sae.encode(activations)
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    sae.W_enc = torch.nn.Parameter(torch.zeros(16, sae.cfg.d_sae))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae.encode(activations), codes)


@each_itda
def test_what_sae_dashboard_relies_on(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    # With TopK it encodes with all rows and then takes the latents that it shows.
    assert isinstance(sae.activation_fn, TopK)
    assert sae.activation_fn.k == 5
    sae.fold_W_dec_norm()
    with torch.inference_mode():
        codes = sae.encode(activations)
        assert codes[:, [7, 3, 0]].shape == (40, 3)
    if sae.cfg.mirrored:
        return
    # For others it puts a slice of the rows in place for a while.
    whole, some = sae.W_dec.data.clone(), [7, 3, 0, 11, 2, 5]
    sae.W_dec = torch.nn.Parameter(sae.W_dec[some])
    sae.W_enc = torch.nn.Parameter(sae.W_enc.data)
    assert sae.encode(activations).shape == (40, 6)
    assert sae.b_enc.shape == (6,)
    sae.W_dec = torch.nn.Parameter(whole)
    torch.testing.assert_close(sae.encode(activations), codes.clone())


@each_itda
def test_statistics_of_the_logit_lens(make_dictionary, kind):
    sae = make_sae(make_dictionary, kind)
    assert torch.equal(sae.b_enc, torch.zeros(sae.cfg.d_sae))
    logits = sae.W_dec @ torch.randn(16, 50)
    assert logits.shape == (sae.cfg.d_sae, 50)
    torch.testing.assert_close((sae.W_enc.T * sae.W_dec).sum(-1), torch.ones(sae.cfg.d_sae))
    assert sae.b_dec.shape == (16,)
    assert not sae.to(torch.bfloat16).b_enc.to(torch.float64).any()


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@pytest.mark.parametrize("least_gain", [0.0, 0.02])
def test_the_nonnegative_view_has_the_codes_of_the_signed_one(make_dictionary, activations, pursuit, least_gain):
    dictionary = make_dictionary(pursuit=pursuit, least_gain=least_gain)
    signed = dictionary.encode(activations).to_dense(24)
    sae = make_sae(make_dictionary, f"{pursuit}-view", least_gain=least_gain)
    codes = sae.encode(activations)
    assert torch.equal(codes, torch.cat([signed.clamp(min=0), (-signed).clamp(min=0)], dim=1))
    assert torch.equal((codes > 0).sum(-1), (signed != 0).sum(-1))
    torch.testing.assert_close(sae(activations), dictionary(activations))


def test_a_new_sae_of_each_form_can_be_made_by_hand(activations):
    for settings in ({}, {"nonnegative": True}, {"mirrored": True}):
        sae = ITDASAE(ITDASAEConfig(d_in=16, d_sae=24, k=3, **settings))
        assert sae.encode(activations).shape == (40, 24)
