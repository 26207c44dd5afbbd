"""The view that SAEBench gets, against what its 0.6.0 evals (sparse_probing, absorption, autointerp) ask of an SAE."""

import json
from typing import Any, Protocol, runtime_checkable

import pytest
import torch
from sae_lens import SAE, SAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning.errors import InputError
from itda_lightning.saelens import to_sae
from itda_lightning.saelens.saebench import for_saebench
from tests.processes import run_python
from tests.saelens.conftest import HOOK


@runtime_checkable
class Contract(Protocol):
    """What `sae_bench.custom_saes.BaseSAE` documents and the three evals use."""

    cfg: Any
    W_enc: torch.Tensor
    W_dec: torch.Tensor
    b_enc: torch.Tensor
    b_dec: torch.Tensor
    device: torch.device
    dtype: torch.dtype

    def encode(self, x: torch.Tensor) -> torch.Tensor: ...
    def decode(self, feature_acts: torch.Tensor) -> torch.Tensor: ...
    def forward(self, x: torch.Tensor) -> torch.Tensor: ...
    def to(self, *args: Any, **kwargs: Any) -> "Contract": ...


# Read by the evals, or by `_standardize_sae_cfg`, which raises where one of the first three cannot be told.
CONFIG_FIELDS = ("hook_layer", "hook_name", "model_name", "d_in", "d_sae", "dtype", "architecture", "context_size")


def random_sae(kind: type[SAE], config: SAEConfig) -> SAE:
    """An SAE with decoder rows of norms other than one."""
    config.metadata.hook_name = HOOK
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        sae = kind(config)
        sae.W_enc.normal_()
        sae.W_dec.normal_()
    return sae


SIGNS = pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])


@SIGNS
def test_it_has_what_saebench_asks_for(make_dictionary, nonnegative):
    view: Any = for_saebench(to_sae(make_dictionary(n=24, d=16, nonnegative=nonnegative)), "tiny-llama")
    n = 24 if nonnegative else 48
    assert isinstance(view, Contract)
    assert isinstance(view, torch.nn.Module)
    assert (view.cfg.d_sae, view.cfg.d_in) == (n, 16)
    assert (view.cfg.hook_layer, view.cfg.hook_name, view.cfg.model_name) == (1, HOOK, "tiny-llama")
    assert all(hasattr(view.cfg, field) for field in CONFIG_FIELDS)
    assert view.W_dec.shape == (n, 16)
    assert view.W_enc.shape == (16, n)
    assert (view.b_enc.shape, view.b_dec.shape) == ((n,), (16,))
    assert json.loads(json.dumps(view.cfg.to_dict()))["d_sae"] == n


@SIGNS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoder_norms_pass_its_check(make_dictionary, nonnegative, dtype):
    view: Any = for_saebench(to_sae(make_dictionary(nonnegative=nonnegative)), "tiny").to(device="cpu", dtype=dtype)
    norms = torch.norm(view.W_dec.data, dim=1)
    assert torch.allclose(norms, torch.ones_like(norms), atol=1e-2 if dtype == torch.bfloat16 else 1e-5)
    assert (view.dtype, view.W_dec.dtype, view.cfg.dtype) == (dtype, dtype, str(dtype).removeprefix("torch."))


@SIGNS
@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@pytest.mark.parametrize("shape", [(40, 16), (4, 10, 16)], ids=["flat", "rows"])
def test_codes_are_not_negative_and_reconstruct_as_the_itda_does(
    make_dictionary, activations, nonnegative, pursuit, shape
):
    sae = to_sae(make_dictionary(n=24, d=16, nonnegative=nonnegative, pursuit=pursuit))
    view: Any = for_saebench(sae, "tiny")
    x = activations.reshape(shape)
    code = view.encode(x)
    assert code.shape == (*shape[:-1], view.cfg.d_sae)
    assert (code >= 0).all()
    torch.testing.assert_close(view.decode(code), sae(x))
    torch.testing.assert_close(view(x), sae(x))
    # As many are above zero as the ITDA's code has that are not zero, and the rows explain the code.
    assert torch.equal((code > 0).sum(-1), (sae.encode(x) != 0).sum(-1))
    torch.testing.assert_close(code @ view.W_dec + view.b_dec, sae(x))


def test_a_negative_coefficient_is_the_negative_atom(make_dictionary, activations):
    sae = to_sae(make_dictionary(n=24, d=16))
    view: Any = for_saebench(sae, "tiny")
    code, signed = view.encode(activations), sae.encode(activations)
    assert (signed < 0).any()
    assert torch.equal(code[:, :24], signed.clamp(min=0))
    assert torch.equal(code[:, 24:], (-signed).clamp(min=0))


def test_the_itda_itself_is_left_alone(make_dictionary):
    sae = to_sae(make_dictionary())
    for_saebench(sae, "other").to(dtype=torch.bfloat16)
    assert sae.dtype == sae.W_dec.dtype == torch.float32
    assert sae.cfg.metadata.model_name == "tiny"


def test_another_sae_is_itself_with_unit_decoder_rows(activations):
    sae = random_sae(StandardSAE, StandardSAEConfig(d_in=16, d_sae=20))
    given: Any = for_saebench(sae, "tiny-llama")
    torch.testing.assert_close(given.W_dec.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(given(activations), sae(activations), rtol=1e-4, atol=1e-4)
    assert given.cfg.metadata.model_name == "tiny-llama"
    assert not torch.allclose(sae.W_dec.norm(dim=1), torch.ones(20), atol=0.1)


def test_an_sae_whose_norms_cannot_be_folded_is_taken_as_it_is(activations):
    sae = random_sae(TopKSAE, TopKSAEConfig(d_in=16, d_sae=20, k=3))
    given: Any = for_saebench(sae, "tiny-llama")
    assert torch.equal(given.W_dec, sae.W_dec)
    torch.testing.assert_close(given.encode(activations), sae.encode(activations))


def test_the_pursuit_of_saelens_is_taken_as_it_is(make_dictionary, activations):
    sae = to_sae(make_dictionary(n=24, d=16), "matching_pursuit")
    view: Any = for_saebench(sae, "tiny")
    torch.testing.assert_close(view.encode(activations), sae.encode(activations))


@pytest.mark.parametrize("hook", ["hook_embed", "blocks.1.attn.hook_z", None])
def test_a_hook_point_that_it_cannot_use(hook):
    config = TopKSAEConfig(d_in=16, d_sae=20, k=3)
    config.metadata.hook_name = hook
    with pytest.raises(InputError, match="SAEBench needs a hook point of one layer without heads"):
        for_saebench(TopKSAE(config), "tiny")


def test_saebench_is_not_needed():
    code = "import sys, itda_lightning.saelens.saebench; sys.exit(any(m.startswith('sae_bench') for m in sys.modules))"
    assert run_python("-c", code).returncode == 0
