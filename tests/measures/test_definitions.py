"""Each measure of representations against its definition written out, or another package's implementation."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import torch
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics.pairwise import cosine_similarity

from itda_lightning.measures import cka, procrustes, pwcca, regression_r2, relative_similarity, svcca
from tests.measures.representations import draw, related, rotation


def centred(x: torch.Tensor) -> np.ndarray:
    return (x - x.mean(0)).numpy()


def canonical_correlations(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.cos(scipy.linalg.subspace_angles(x, y))


def test_cka_is_the_hilbert_schmidt_definition() -> None:
    x, y = related(0, 40, 5, 7)
    centre = np.eye(40) - 1 / 40
    k, m = (centre @ (z.numpy() @ z.numpy().T) @ centre for z in (x + 3.0, y - 2.0))
    assert cka(x + 3.0, y - 2.0) == pytest.approx(np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m)), rel=1e-10)


def hsic_of_all_quadruples(k: np.ndarray, m: np.ndarray) -> float:
    """The U-statistic that Song et al. 2012 define (Eq. 4 and 5): a mean over tuples of distinct tokens."""
    n = len(k)
    i, j, q, r = np.ogrid[:n, :n, :n, :n]
    distinct = (i != j) & (i != q) & (i != r) & (j != q) & (j != r) & (q != r)
    kernel = k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    return float(kernel[distinct].mean())


def test_debiased_cka_is_the_mean_over_distinct_tokens() -> None:
    x, y = related(1, 12, 3, 5)
    k, m = (z.numpy() @ z.numpy().T for z in (x + 3.0, y - 2.0))
    expected = hsic_of_all_quadruples(k, m) / np.sqrt(hsic_of_all_quadruples(k, k) * hsic_of_all_quadruples(m, m))
    assert cka(x + 3.0, y - 2.0, debiased=True) == pytest.approx(expected, rel=1e-9)


def song(k: np.ndarray, m: np.ndarray) -> float:
    """Eq. 5 of Song et al. 2012 with n x n kernels."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    rest = k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (k @ m).sum()
    return (np.trace(k @ m) + rest) / (n * (n - 3))


@pytest.mark.parametrize("largest", [1.0, 1e3])
@pytest.mark.parametrize(("n", "d"), [(300, 10), (60, 100)])
def test_debiased_cka_is_the_closed_form_with_kernels(n: int, d: int, largest: float) -> None:
    x, y = related(2, n, d, 7)
    x[5] *= largest
    k, m = (centred(z) @ centred(z).T for z in (x, y))
    assert cka(x, y, debiased=True) == pytest.approx(song(k, m) / np.sqrt(song(k, k) * song(m, m)), rel=1e-8)


@pytest.mark.parametrize("variance", [0.5, 0.9, 0.99, 1.0])
def test_svcca_is_cca_of_principal_components(variance: float) -> None:
    x, y = related(3, 300, 9, 7)
    x = x * torch.linspace(0.1, 5, 9, dtype=x.dtype)
    kept = [PCA(None if variance == 1 else variance, svd_solver="full").fit_transform(z.numpy()) for z in (x, y)]
    assert svcca(x, y, variance) == pytest.approx(canonical_correlations(*kept).mean(), abs=1e-9)


def test_svcca_of_all_variance_has_the_correlations_of_scikit_learns_cca() -> None:
    x, y = related(4, 300, 4, 3)
    left, right = CCA(3, max_iter=10_000, tol=1e-14).fit_transform(x.numpy(), y.numpy())
    expected = [np.corrcoef(left[:, i], right[:, i])[0, 1] for i in range(3)]
    assert svcca(x, y, 1.0) == pytest.approx(np.mean(expected), abs=1e-6)


def test_svcca_keeps_the_fewest_directions_with_the_share_of_variance() -> None:
    # Variances 100 : 1 : 1, so 98% needs the first direction only, which is all of the other side.
    x = torch.from_numpy(centred(torch.linalg.qr(draw(0, 300, 4))[0][:, :3])) * torch.tensor([10.0, 1.0, 1.0])
    assert svcca(x, x[:, :1], variance=0.97) == pytest.approx(1.0, abs=0.02)
    assert svcca(x, draw(1, 300, 1), variance=0.97) == pytest.approx(svcca(x[:, :1], draw(1, 300, 1)), abs=0.02)


@pytest.mark.parametrize(("d1", "d2"), [(6, 4), (4, 6)])
def test_pwcca_from_the_canonical_directions_over_tokens(d1: int, d2: int) -> None:
    x, y = (centred(z) for z in related(5, 200, d1, d2))
    left, right = np.linalg.qr(x)[0], np.linalg.qr(y)[0]
    u, correlations, _ = np.linalg.svd(left.T @ right, full_matrices=False)
    weights = np.abs((left @ u).T @ x).sum(1)
    assert pwcca(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(
        np.average(correlations, weights=weights), rel=1e-10
    )


def test_regression_is_scikit_learns() -> None:
    x, y = related(6, 200, 6, 4)
    x, y = x + 3.0, y - 2.0
    predicted = LinearRegression().fit(x.numpy(), y.numpy()).predict(x.numpy())
    expected = 1 - ((y.numpy() - predicted) ** 2).sum() / (centred(y) ** 2).sum()
    assert regression_r2(x, y) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("smallest", "error"), [(1e-2, 1e-12), (1e-4, 1e-8)])
def test_directions_of_little_variance_are_as_good_as_a_gram_matrix_knows_them(smallest: float, error: float) -> None:
    z, y = related(9, 400, 20, 12)
    x = z * torch.logspace(0, float(np.log10(smallest)), 20, dtype=z.dtype) @ rotation(0, 20)
    left, right = np.linalg.qr(centred(x))[0], np.linalg.qr(centred(y))[0]
    assert svcca(x, y, 1.0) == pytest.approx(np.linalg.svd(left.T @ right)[1].mean(), abs=error)
    explained = np.linalg.norm(left.T @ centred(y)) ** 2 / np.linalg.norm(centred(y)) ** 2
    assert regression_r2(x, y) == pytest.approx(explained, abs=error)


def test_procrustes_is_scipys() -> None:
    x, y = related(7, 100, 5, 5)
    disparity = scipy.spatial.procrustes(x.numpy(), y.numpy())[2]
    assert procrustes(x, y) == pytest.approx(np.sqrt(1 - disparity), rel=1e-10)
    a, b = (centred(z) / np.linalg.norm(centred(z)) for z in (x, y))
    best, scale = scipy.linalg.orthogonal_procrustes(a, b)
    assert procrustes(x, y) == pytest.approx(scale, rel=1e-10)
    assert 2 - 2 * procrustes(x, y) == pytest.approx(np.linalg.norm(a @ best - b) ** 2, rel=1e-9)


def test_procrustes_of_two_widths_pads_the_narrower() -> None:
    x, y = related(8, 100, 3, 5)
    assert procrustes(x, y) == pytest.approx(procrustes(torch.nn.functional.pad(x, (0, 2)), y), rel=1e-12)


def test_relative_similarity_from_the_definition() -> None:
    x, y, anchors = draw(0, 12, 4), draw(1, 12, 6), torch.tensor([3, 8, 1])
    r, s = (cosine_similarity(z.numpy(), z[anchors].numpy()) for z in (x, y))
    assert relative_similarity(x, y, anchors) == pytest.approx(np.diag(cosine_similarity(r, s)).mean(), rel=1e-10)
