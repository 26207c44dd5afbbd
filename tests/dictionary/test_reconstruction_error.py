"""Sums of errors, energies and atoms of codes, from which FVU and L0 follow."""

import math

import pytest
import torch

from itda_lightning.dictionary.reconstruction_error import ReconstructionSums


def test_figures_of_single_precision_are_those_of_double():
    """Also where the mean is large beside the spread, which costs sums of single precision their digits."""
    x = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0)) + 30
    errors, l0 = torch.rand(2000, generator=torch.Generator().manual_seed(1)), torch.arange(2000) % 7
    sums = ReconstructionSums(6)
    for part in torch.arange(2000).split(300):
        sums.update(x[part], errors[part], l0[part])
    figures, exact = sums.compute(), x.double()
    assert figures.variance == pytest.approx(float((exact - exact.mean(0)).square().sum()), rel=1e-10)
    assert figures.squared_error == pytest.approx(float(errors.double().sum()), rel=1e-12)
    assert figures.l0 == pytest.approx(float(l0.double().mean()), rel=1e-12)
    assert figures.fvu == figures.squared_error / figures.variance


def test_no_spread_has_no_share():
    sums = ReconstructionSums(2)
    sums.update(torch.ones(3, 2), torch.zeros(3))
    assert math.isnan(sums.compute().fvu)
