"""Detection, how strongly the meaning of each atom is there, and novelty, how little all of them explain."""

import numpy as np
import pytest
import torch

import itda_lightning as il


def test_detection_is_the_cosine_with_each_atom():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(6.0), k=2)
    x = torch.randn(9, 6)
    x[0] = torch.arange(6.0)
    expected = torch.nn.functional.cosine_similarity((x - dictionary.bias)[:, None], dictionary.atoms[None], dim=2)
    torch.testing.assert_close(dictionary.detect(x), expected)
    assert not dictionary.detect(x)[0].any()
    with pytest.raises(ValueError, match=r"x must have shape \(..., 6\), got \(2, 5\)"):
        dictionary.detect(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="x has 1 non-finite rows"):
        dictionary.detect(torch.full((1, 6), torch.nan))


def test_novelty_is_the_share_left_unexplained():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(6.0), k=2)
    x = torch.randn(9, 6)
    x[0] = torch.arange(6.0)
    left, energy = (part.double().square().sum(1) for part in (x - dictionary(x), x - dictionary.bias))
    novelty = dictionary.novelty(x)
    torch.testing.assert_close(novelty[1:].double(), (left / energy)[1:], rtol=1e-4, atol=1e-5)
    assert novelty[0] == 0
    with pytest.raises(ValueError, match="x has 1 non-finite rows"):
        dictionary.novelty(torch.full((1, 6), torch.nan))


def test_activations_of_any_leading_shape_give_codes_of_that_shape():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), torch.arange(6.0), k=3)
    x = torch.randn(2, 5, 6)
    flat, code = dictionary.encode(x.reshape(10, 6)), dictionary.encode(x)
    for part, of_flat in zip(code, flat, strict=True):
        assert part.shape[:2] == (2, 5)
        assert torch.equal(part.flatten(0, 1), of_flat)
    assert torch.equal(dictionary.decode(code), dictionary.decode(flat).reshape(2, 5, 6))
    assert torch.equal(dictionary(x), dictionary.decode(code))
    assert torch.equal(code.to_dense(12), flat.to_dense(12).reshape(2, 5, 12))
    assert torch.equal(code.l0(), flat.l0().reshape(2, 5))
    assert torch.equal(dictionary.detect(x), dictionary.detect(x.reshape(10, 6)).reshape(2, 5, 12))
    assert torch.equal(dictionary.novelty(x), dictionary.novelty(x.reshape(10, 6)).reshape(2, 5))
    one = dictionary.encode(x[1, 2])
    assert one.support.shape == (3,)
    assert one.residual_energy.shape == ()
    assert torch.equal(one.to_dense(12), dictionary.encode(x[1, 2][None]).to_dense(12)[0])
    assert dictionary.decode(one).shape == (6,)
    assert dictionary.encode(x[:0]).support.shape == (0, 5, 3)


def test_arrays_and_lists_are_encoded_as_tensors_are():
    dictionary = il.Dictionary(torch.nn.functional.normalize(torch.randn(12, 6), dim=1), k=3)
    x = torch.randn(4, 6)
    expected = dictionary.encode(x)
    read_only = x.numpy().copy()
    read_only.setflags(write=False)
    for given in (x.numpy(), read_only, x.numpy()[::-1][::-1], x.numpy().astype(">f4"), x.tolist(), x.double().numpy()):
        assert torch.equal(dictionary.encode(given).support, expected.support)
    assert dictionary.encode(np.array([1, 0, 0, 0, 0, 2])).support.shape == (3,)
    with pytest.raises(il.InputError, match="x must hold numbers of shape"):
        dictionary.encode(["a", "b"])
    with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., 6\), got \(2, 5\)"):
        dictionary.detect(np.zeros((2, 5)))


def test_a_code_is_a_table_in_a_notebook():
    code = il.Dictionary(torch.eye(4), k=2).encode(torch.tensor([[3.0, 0.0, -2.0, 1.0]] * 12))
    table = code._repr_html_()
    assert table.count("+3 · atom 0, -2 · atom 2") == 10
    assert "and 2 more" in table
    assert "atom 1" not in il.Dictionary(torch.eye(4), k=1).encode([0.0, 0.0, 7.0, 0.0])._repr_html_()
