"""What the public functions refuse, and that the message names the value and the remedy."""

from inspect import unwrap

import pytest
import torch

from itda_lightning.pursuit import check_sparsity, check_unit_rows, matching_pursuit, orthogonal_matching_pursuit

# Under pytest the annotations are enforced first; ``unwrap`` gives what a user without that enforcement calls.
both = pytest.mark.parametrize("pursuit", [matching_pursuit, orthogonal_matching_pursuit])
X, ATOMS = torch.ones(2, 3), torch.eye(3)


@both
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_inputs_that_are_not_floating_point(pursuit, dtype):
    with pytest.raises(TypeError, match=rf"^x must be floating-point, got {dtype}: convert it with \.float\(\)$"):
        unwrap(pursuit)(X.to(dtype), ATOMS, 2)
    with pytest.raises(TypeError, match=rf"^atoms must be floating-point, got {dtype}: convert it with \.float\(\)$"):
        unwrap(pursuit)(X, ATOMS.to(dtype), 2)


@both
@pytest.mark.parametrize("shape", [(), (3,), (1, 2, 3)])
def test_inputs_that_are_not_matrices(pursuit, shape):
    told = str(tuple(shape)).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ValueError, match=rf"^x must have two dimensions, got shape {told}: reshape it to rows$"):
        unwrap(pursuit)(torch.ones(shape), ATOMS, 2)
    with pytest.raises(ValueError, match=rf"^atoms must have two dimensions, got shape {told}: reshape it to rows$"):
        unwrap(pursuit)(X, torch.ones(shape), 2)


@both
def test_widths_that_differ(pursuit):
    with pytest.raises(
        ValueError, match=r"^x has 4 dimensions and atoms have 3: they must come from the same hook point$"
    ):
        unwrap(pursuit)(torch.ones(2, 4), ATOMS, 2)


@both
def test_devices_that_differ(pursuit):
    with pytest.raises(ValueError, match=r"^x is on cpu and atoms are on meta: move one of them$"):
        pursuit(X, ATOMS.to("meta"), 2)


@both
@pytest.mark.parametrize("k", [0, -1])
def test_a_budget_below_one(pursuit, k):
    message = f"^k must be at least 1, got {k}: it is the number of atoms that a code may use$"
    with pytest.raises(ValueError, match=message):
        pursuit(X, ATOMS, k)
    with pytest.raises(ValueError, match=message):
        check_sparsity(k)


@both
@pytest.mark.parametrize("threshold", [-0.1, 1.5, float("nan"), float("inf")])
def test_a_threshold_that_is_no_fraction(pursuit, threshold):
    message = rf"^error_threshold must be a fraction of \|x\|\^2 in \[0, 1\], got {threshold}$"
    with pytest.raises(ValueError, match=message):
        pursuit(X, ATOMS, 2, error_threshold=threshold)


@both
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_activations_that_are_not_finite(pursuit, value):
    x = torch.ones(5, 3)
    x[1, 2] = x[3, 0] = value
    with pytest.raises(ValueError, match=r"^x has 2 non-finite rows, the first is row 1: drop them$"):
        pursuit(x, ATOMS, 2)


@both
@pytest.mark.parametrize(
    ("row", "told"), [([0.0, 0.0, 0.0], "0"), ([0.0, 1.02, 0.0], r"1\.02"), ([float("nan"), 0.0, 0.0], "nan")]
)
def test_atoms_that_are_not_unit_rows(pursuit, row, told):
    atoms = torch.eye(3)
    atoms[1] = torch.tensor(row)
    message = (
        rf"^atoms must be unit rows: row 1 has norm {told}; divide by torch\.linalg\.vector_norm\(atoms, dim=1, keep"
    )
    with pytest.raises(ValueError, match=message):
        pursuit(X, atoms, 2)
    with pytest.raises(ValueError, match=message):
        check_unit_rows(atoms)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_unit_rows_stored_in_any_precision_are_accepted(dtype):
    check_unit_rows(torch.nn.functional.normalize(torch.randn(200, 5), dim=1).to(dtype))
