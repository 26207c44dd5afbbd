"""The maps of the transcoder study agree with scikit-learn and plain loops, its losses with a hook in the model."""

import copy

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from sklearn.linear_model import Ridge
from transformers import LlamaConfig, LlamaForCausalLM

import itda_lightning as il
from benchmarks.transcoders.losses import MLPLosses
from benchmarks.transcoders.maps import RIDGES, ridge_regression, sparse, train_transcoder
from itda_lightning.activations.text.rows import Rows


@pytest.fixture
def sides() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 20, generator=generator) + 1
    y = 0.1 * x @ torch.randn(20, 5, generator=generator) + torch.randn(400, 5, generator=generator)
    return x, y, torch.rand(400, generator=generator) < 0.2


@pytest.mark.parametrize("as_codes", [False, True])
def test_ridge_is_scikit_learns_for_the_best_ridge(sides: tuple[torch.Tensor, ...], as_codes: bool) -> None:
    x, y, held = sides
    dense = x.double().numpy() * (x.numpy() > (0.5 if as_codes else -np.inf))
    found = ridge_regression(csr_array(dense) if as_codes else torch.from_numpy(dense), y, held)
    errors = {}
    for ridge in RIDGES:
        some = dense[~held.numpy()]
        fitted = Ridge(ridge * some.var(0).mean() * len(some)).fit(some, y[~held].double().numpy())
        errors[ridge] = float(((fitted.predict(dense[held.numpy()]) - y[held].numpy()) ** 2).sum())
    assert min(errors, key=lambda ridge: errors[ridge]) == found.ridge
    assert RIDGES[0] < found.ridge < RIDGES[-1]
    expected = Ridge(found.ridge * dense.var(0).mean() * len(dense)).fit(dense, y.double().numpy())
    np.testing.assert_allclose(found.weight.numpy(), expected.coef_.T, atol=1e-8)
    np.testing.assert_allclose(found.intercept.numpy(), expected.intercept_, atol=1e-8)


def test_no_map_of_a_rank_is_nearer_than_the_reduced_one(sides: tuple[torch.Tensor, ...]) -> None:
    x, y, held = sides
    whole = ridge_regression(x, y, held)
    reduced = whole.of_rank(2, x)
    assert int(torch.linalg.matrix_rank(reduced.weight, atol=1e-8)) == 2
    # Eckart and Young: the nearest centred predictions of rank 2 are those of the largest singular values.
    predicted = whole(x)
    centred = predicted - predicted.mean(0)
    u, s, v = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(reduced(x) - predicted.mean(0), u[:, :2] * s[:2] @ v[:2])


def test_sparse_codes_are_the_dense_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(30, 8, generator=generator), dim=1), k=3)
    code = dictionary.encode(torch.randn(50, 8, generator=generator))
    np.testing.assert_allclose(sparse(code, 30).toarray(), code.to_dense(30).double().numpy())


def test_a_transcoder_learns_and_its_scales_are_folded_in() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 5 * torch.randn(4096, 16, generator=generator) + 3
    y = torch.relu(x @ torch.randn(16, 16, generator=generator)) * 0.01 - 2
    made = train_transcoder(x, y, 64, passes=8, batch_size=512)
    left = (made(x) - y).square().sum() / (y - y.mean(0)).square().sum()
    assert float(left.detach()) < 0.3
    assert int((made.encode(x) != 0).sum(1).max()) <= made.k


def test_losses_are_those_of_a_hook_in_the_model() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2
    )
    model = LlamaForCausalLM(config).eval()
    before = copy.deepcopy(model.state_dict())
    tokens, kept = torch.randint(50, (6, 9)), torch.rand(6, 9) < 0.8
    zeros = torch.zeros(6, 9, dtype=torch.int64)
    document = torch.arange(6)[:, None].expand(6, 9).contiguous()
    rows = Rows(tokens, document, zeros, zeros, kept, 0, "tests", dict.fromkeys(range(6), ""), {})
    new = torch.randn(6, 9, 16)
    with torch.no_grad():
        rise, kl = MLPLosses(model, rows, 1).measure(new)
        own = torch.log_softmax(model(input_ids=tokens).logits, dim=-1).double()
        handle = model.model.layers[1].mlp.register_forward_hook(
            lambda _, __, output: torch.where(kept[..., None], new, output)
        )
        changed = torch.log_softmax(model(input_ids=tokens).logits, dim=-1).double()
        handle.remove()
    difference = [
        float(own[row, at, tokens[row, at + 1]] - changed[row, at, tokens[row, at + 1]])
        for row in range(6)
        for at in range(8)
        if kept[row, at]
    ]
    divergence = (own.exp() * (own - changed)).sum(-1)[kept]
    assert rise.value == pytest.approx(np.mean(difference), rel=1e-4)
    assert kl.value == pytest.approx(float(divergence.mean()), rel=1e-4)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
