"""Gradients of codes wherever other SAEs have them: frozen or trained, at hooks, in ``torch.func``, compiled."""

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, vmap

from itda_lightning.saelens import to_sae
from tests.saelens.kinds import each_itda, each_kind, make_sae


def small(make_dictionary, kind):
    return make_sae(make_dictionary, kind, n=8, d=5, k=3, dtype=torch.float64)


def x_of(batch):
    return 3 * torch.randn(batch, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@each_kind
def test_gradients_are_those_of_finite_differences(make_dictionary, kind):
    sae = small(make_dictionary, kind)
    x, bias = x_of(2).requires_grad_(), sae.b_dec.detach().clone().requires_grad_()
    half = sae.W_dec.detach()[:8].clone().requires_grad_()

    def encode(x, half, bias):
        rows = half if sae.cfg.d_sae == 8 else torch.cat([half, -half])
        return functional_call(Encoder(sae), {"sae.W_dec": rows, "sae.b_dec": bias}, (x,))

    assert torch.autograd.gradcheck(encode, (x, half, bias), fast_mode=True)


class Encoder(torch.nn.Module):
    def __init__(self, sae):
        super().__init__()
        self.sae = sae

    def forward(self, x):
        return self.sae.encode(x)


@each_itda
def test_the_gradient_at_the_codes_needs_none_at_the_input(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind)
    gradients = []
    sae.hook_sae_acts_post.add_hook(lambda gradient, hook: gradients.append(gradient), dir="bwd")
    sae(activations).sum().backward()
    torch.testing.assert_close(gradients[0], sae.W_dec.sum(1).expand(40, -1))
    assert sae.W_dec.grad.any()
    assert sae.b_dec.grad.any()


@each_itda
def test_a_vector_is_learned_in_a_hook_of_a_frozen_sae(make_dictionary, activations, kind):
    sae = make_sae(make_dictionary, kind).requires_grad_(False)
    assert not sae(activations).requires_grad
    vector = torch.zeros(16, requires_grad=True)
    sae.hook_sae_input.add_hook(lambda acts, hook: acts + vector)
    codes = sae.encode(activations)
    codes.retain_grad()
    sae.decode(codes).square().sum().backward()
    assert codes.grad.any()
    x = activations.clone().requires_grad_()
    sae.reset_hooks()
    sae(x).square().sum().backward()
    torch.testing.assert_close(vector.grad, x.grad.sum(0))


def test_without_gradients_nothing_is_kept(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    with torch.no_grad():
        assert sae.encode(activations.requires_grad_()).grad_fn is None
    with torch.inference_mode():
        assert sae.encode(activations).is_inference()


def test_memory_for_backward_is_of_the_size_of_codes(make_dictionary):
    sae = to_sae(make_dictionary(n=64, d=48, k=8, pursuit="omp")).requires_grad_(False)
    x = torch.randn(50, 48, requires_grad=True)
    sizes = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
    ):
        sae.encode(x)
    assert max(sizes) <= max(50 * 48, 64 * 48)  # activations and atoms, nothing of (batch, k, d)
    assert sum(sizes) <= 2 * 50 * 48 + 64 * 48 + 4 * 50 * 8


@pytest.mark.parametrize("kind", ["mp-signed", "omp-nonnegative", "gomp-view", "omp-pruned"])
def test_transforms_of_torch_func(make_dictionary, kind):
    sae = small(make_dictionary, kind)
    x = x_of(6)
    torch.testing.assert_close(vmap(sae.encode)(x), sae.encode(x))
    torch.testing.assert_close(vmap(sae.encode)(x.reshape(2, 3, 5)), sae.encode(x).reshape(2, 3, -1))
    torch.testing.assert_close(vmap(sae.encode, in_dims=1)(x.T.contiguous()), sae.encode(x))

    def loss(x):
        return sae(x).square().sum()

    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(grad(loss)(x), expected)
    torch.testing.assert_close(vmap(grad(loss))(x), expected)
    torch.testing.assert_close(jacrev(sae.encode)(x[0]).T @ sae.encode(x[0]), grad(code_energy(sae))(x[0]) / 2)
    torch.testing.assert_close(hessian(loss)(x[0]), jacrev(jacrev(loss))(x[0]))
    stacked = torch.stack([sae.W_dec.detach(), 2 * sae.W_dec.detach()])
    codes = vmap(lambda rows: functional_call(Encoder(sae), {"sae.W_dec": rows}, (x,)))(stacked)
    torch.testing.assert_close(codes[1], codes[0] / 2)
    with pytest.raises(ValueError, match="x has 1 non-finite rows, the first is row 2"):
        vmap(sae.encode)(x.index_fill(0, torch.tensor([2]), torch.nan))


def code_energy(sae):
    return lambda x: sae.encode(x).square().sum()


@pytest.mark.parametrize("kind", ["mp-signed", "omp-view"])
def test_compiled_as_one_graph(make_dictionary, kind):
    sae = small(make_dictionary, kind)
    compiled = torch.compile(sae, fullgraph=True, backend="aot_eager")
    for batch in (2, 3, 5):
        x = x_of(batch)
        output = compiled(x)
        torch.testing.assert_close(output, sae(x))
        sae.zero_grad()
        output.square().sum().backward()
        rows, bias = sae.W_dec.grad, sae.b_dec.grad
        sae.zero_grad()
        sae(x).square().sum().backward()
        torch.testing.assert_close(rows, sae.W_dec.grad)
        torch.testing.assert_close(bias, sae.b_dec.grad)
    sae.W_dec.data *= 2
    torch.testing.assert_close(compiled(x), output.detach())


def test_exported_for_any_batch(make_dictionary):
    sae = small(make_dictionary, "omp-signed")
    exported = torch.export.export(sae, (x_of(3),), dynamic_shapes={"x": {0: torch.export.Dim("batch")}}).module()
    for batch in (2, 7):
        torch.testing.assert_close(exported(x_of(batch)), sae(x_of(batch)))


def test_the_operator_is_as_torch_expects_it(make_dictionary):
    sae = small(make_dictionary, "omp-signed")
    arguments = x_of(3), sae.W_dec.detach(), sae._stored.key, "omp", 3, False, 0.0, False
    torch.library.opcheck(torch.ops.itda_lightning.pursue.default, arguments)
