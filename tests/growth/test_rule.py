"""The threshold in the form of the paper's released code."""

import pytest
import torch

from itda_lightning.growth import unexplained_threshold
from itda_lightning.pursuit import orthogonal_matching_pursuit


@pytest.mark.parametrize(("d", "cosine"), [(768, 0.8464), (1024, 0.7952)])
def test_the_thresholds_that_the_paper_used(d, cosine):
    assert unexplained_threshold(4e-4, d) == pytest.approx(1 - cosine**2, abs=1e-12)


def test_both_forms_decide_alike_where_the_residual_is_orthogonal():
    generator = torch.Generator().manual_seed(0)
    d, tau = 24, 0.02
    atoms = torch.nn.functional.normalize(torch.randn(40, d, generator=generator, dtype=torch.float64), dim=1)
    x = torch.randn(200, d, generator=generator, dtype=torch.float64)
    code = orthogonal_matching_pursuit(x, atoms, 4)
    x_hat = code.to_dense(40) @ atoms
    units = [torch.nn.functional.normalize(part, dim=1) for part in (x, x_hat)]
    theirs = (units[0] - units[1]).square().mean(1) > tau
    ours = code.residual_energy > unexplained_threshold(tau, d) * x.square().sum(1)
    assert torch.equal(ours, theirs)
    assert 20 < int(ours.sum()) < 180


@pytest.mark.parametrize(
    ("tau", "d", "message"),
    [
        (0.003, 768, r"threshold 0.003 at d_in 768 means cos\(x, x_hat\) < -0.152: nothing would be appended.*0.0026"),
        (4 / 768, 768, r"means cos\(x, x_hat\) < -1: nothing would be appended"),
        (0.0, 768, r"threshold 0 at d_in 768 means cos\(x, x_hat\) < 1: everything would be appended"),
        (
            -1e-4,
            64,
            r"means cos\(x, x_hat\) < 1.003: everything would be appended; give a value between 0 and 2 / d_in",
        ),
    ],
)
def test_thresholds_that_take_nothing_or_everything(tau, d, message):
    with pytest.raises(ValueError, match=message):
        unexplained_threshold(tau, d)
