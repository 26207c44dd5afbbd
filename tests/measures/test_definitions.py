"""Each measure of representations against its definition written out, or another package's implementation."""

import numpy as np
import pytest
import scipy.linalg
import scipy.spatial
import scipy.stats
import torch
from sklearn.cross_decomposition import CCA
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression
from sklearn.metrics.pairwise import cosine_similarity

from itda_lightning import InputError
from itda_lightning.measures import (
    aligned_cosine,
    angular_procrustes,
    cka,
    distance_correlation,
    procrustes,
    pwcca,
    regression_r2,
    relative_similarity,
    rsa,
    second_order_cosine,
    svcca,
)
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


def test_the_angle_is_that_of_williams_and_a_metric() -> None:
    x, y = related(10, 100, 5, 5)
    a, b = (centred(z) / np.linalg.norm(centred(z)) for z in (x, y))
    best, _ = scipy.linalg.orthogonal_procrustes(a, b)
    assert angular_procrustes(x, y) == pytest.approx(1 - np.arccos(np.sum(a @ best * b)) / (np.pi / 2), rel=1e-10)
    z = y @ draw(11, 5, 5) + draw(12, 100, 5)
    angles = {pair: 1 - angular_procrustes(*pair) for pair in ((x, y), (y, z), (x, z))}
    direct, *detour = (angles[pair] for pair in ((x, z), (x, y), (y, z)))
    assert direct <= sum(detour)


def test_distance_correlation_is_the_mean_over_all_pairs_of_doubly_centred_distances() -> None:
    x, y = related(13, 30, 4, 6)
    n, centred_distances = len(x), []
    for z in ((x + 5).numpy(), y.numpy()):
        far = [[np.sqrt(np.sum((one - other) ** 2)) for other in z] for one in z]
        rows, grand = [np.mean(row) for row in far], np.mean(far)
        centred_distances.append([[far[i][j] - rows[i] - rows[j] + grand for j in range(n)] for i in range(n)])
    a, b = (np.array(matrix) for matrix in centred_distances)
    expected = np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean()))
    assert distance_correlation(x + 5, y) == pytest.approx(expected, rel=1e-10)


def test_distance_correlation_sees_what_is_not_linear() -> None:
    x = draw(14, 400, 1)
    assert cka(x, x.abs()) < 0.05
    assert distance_correlation(x, x.abs()) > 0.4


def test_rsa_is_scipys_rank_correlation_of_distances() -> None:
    x, y = related(15, 40, 4, 6)
    x[7] = x[9]
    distances = [scipy.spatial.distance.pdist(z.numpy()) for z in (x, y)]
    assert rsa(x, y) == pytest.approx(scipy.stats.spearmanr(*distances).statistic, rel=1e-10)
    tied = x.round()  # many equal distances
    distances[0] = scipy.spatial.distance.pdist(tied.numpy())
    assert rsa(tied, y) == pytest.approx(scipy.stats.spearmanr(*distances).statistic, rel=1e-10)


@pytest.mark.parametrize(("d1", "d2"), [(5, 5), (3, 5)])
def test_aligned_cosine_is_the_mean_cosine_after_scipys_rotation(d1: int, d2: int) -> None:
    x, y = related(16, 60, d1, d2)
    a, b = np.pad(centred(x), ((0, 0), (0, d2 - d1))), centred(y)
    best, _ = scipy.linalg.orthogonal_procrustes(a, b)
    cosines = [
        one @ best @ other / np.linalg.norm(one) / np.linalg.norm(other) for one, other in zip(a, b, strict=True)
    ]
    assert aligned_cosine(x + 3, y) == pytest.approx(np.mean(cosines), rel=1e-10)
    assert aligned_cosine(x * torch.logspace(0, 3, 60, dtype=x.dtype)[:, None], y) != pytest.approx(procrustes(x, y))


def test_second_order_cosine_is_of_the_union_of_both_sides_neighbours() -> None:
    x, y = related(17, 50, 4, 6)
    a, b = (cosine_similarity(z.numpy()) for z in (x, y))
    values = []
    for token in range(50):
        near = [sorted(set(range(50)) - {token}, key=(-s[token]).__getitem__)[:7] for s in (a, b)]
        union = sorted({*near[0], *near[1]})
        values.append(cosine_similarity(a[token, union][None], b[token, union][None])[0, 0])
    assert second_order_cosine(x, y, k=7) == pytest.approx(np.mean(values), rel=1e-10)


def test_what_measures_of_a_sample_refuse() -> None:
    x = draw(0, 30, 3)
    with pytest.raises(InputError, match="30 tokens are too few to align 40 dimensions, as a rotation would fit them"):
        aligned_cosine(x, draw(1, 30, 40))
    for k in (0, 30):
        with pytest.raises(InputError, match=f"k must be from 1 to 29 with 30 tokens, got {k}"):
            second_order_cosine(x, x, k)
    with pytest.raises(InputError, match="y has an all-zero row, which has no direction: leave that token out"):
        second_order_cosine(x, x.index_fill(0, torch.tensor([3]), 0.0))
    for measure in (distance_correlation, rsa):
        with pytest.raises(InputError, match="y is the same for every token: it has no distances to compare"):
            measure(x, torch.full((30, 3), 0.1, dtype=x.dtype))
    with pytest.raises(InputError, match="2 tokens are too few: give at least 3"):
        rsa(x[:2], x[:2])
