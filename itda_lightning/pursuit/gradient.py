"""Derivatives of codes: with the support held fixed, coefficients are a smooth function of activations and atoms.

On a support S of rows a_1, a_2, ... the coefficients c solve ``M c = A x``. If they are least-squares ones, M is the
Gram of S. If they are those of matching pursuit, M is its lower triangle: c_t is the projection of what c_1 .. c_t-1
leave. Rows need not be unit. What is saved for backward are the arguments, so (batch, k); the atoms of the supports are
gathered again when they are needed, some rows at a time.

``torch.compile`` traces all of this, and cannot trace checks of types: hence ``no_type_check``.
"""

from collections.abc import Iterator
from typing import Any, no_type_check

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Entries of the chosen atoms that are gathered at a time.
BLOCK_ENTRIES = 2**23


@no_type_check
def differentiable(
    support: Int[Tensor, "batch k"],
    coefficients: Float[Tensor, "batch k"],
    x: Float[Tensor, "batch d"],
    rows: Float[Tensor, "n d"],
    least_squares: bool,
) -> Float[Tensor, "batch k"]:
    """Return the same coefficients (batch, k), bit for bit, as a function of x and rows on the support.

    They have gradients of any order, directional derivatives, and rules for ``torch.func`` and ``torch.compile``.

    Args:
        support: (batch, k) int64, -1 where it is unused.
        coefficients: (batch, k) of the pursuit, in the dtype of the computation.
        x: (batch, d) activations of any floating dtype.
        rows: (n, d) atoms of any norm and floating dtype.
        least_squares: whether the coefficients are the least-squares ones on the support, or those of matching pursuit.
    """
    # torch.compile traces no function that has a jvp.
    function = OnSupport if torch.compiler.is_compiling() else OnSupportBothWays
    return function.apply(support, coefficients, x, rows, least_squares)


@no_type_check
class OnSupport(torch.autograd.Function):
    """The coefficients on a support, which were computed elsewhere, with their derivatives."""

    generate_vmap_rule = True

    @staticmethod
    def forward(support: Tensor, coefficients: Tensor, x: Tensor, rows: Tensor, least_squares: bool) -> Tensor:  # noqa: ARG004  what it is differentiated by
        return coefficients.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        support, _, x, rows, ctx.least_squares = inputs
        # The output, not the input: in a second derivative the coefficients are a function, too.
        ctx.save_for_backward(support, output, x, rows)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        support, coefficients, x, rows = ctx.saved_tensors
        of_x, of_rows = ctx.needs_input_grad[2:4]
        if gradient is None or not (of_x or of_rows):
            return None, None, None, None, None
        by_x: list[Tensor] = []
        by_rows = gradient.new_zeros(rows.shape) if of_rows else None
        for block in _blocks(support, x):
            system = System(support[block], coefficients[block], x[block], rows, ctx.least_squares)
            u = system.solve(gradient[block], transposed=True)
            by_x.append((u[:, None, :] @ system.chosen)[:, 0])
            if by_rows is not None:
                moved = u[..., None] * system.residuals() - system.c[..., None] * system.from_here_on(u)
                by_rows.index_add_(0, system.index.flatten(), moved.flatten(0, 1))
        joined = torch.cat(by_x).to(x.dtype) if of_x else None
        return None, None, joined, None if by_rows is None else by_rows.to(rows.dtype), None


@no_type_check
class OnSupportBothWays(OnSupport):
    """The same with directional derivatives."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        OnSupport.setup_context(ctx, inputs, output)
        support, _, x, rows, _ = inputs
        ctx.save_for_forward(support, output, x, rows)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        x_tangent, rows_tangent = tangents[2:4]
        support, coefficients, x, rows = ctx.saved_tensors
        parts = []
        for block in _blocks(support, x):
            system = System(support[block], coefficients[block], x[block], rows, ctx.least_squares)
            left = torch.zeros_like(system.x[:, None]) if x_tangent is None else x_tangent[block].to(system.x)[:, None]
            right = torch.zeros_like(system.c)
            if rows_tangent is not None:
                moved = system.gather(rows_tangent)
                left = left - system.explained(moved)
                right = (moved * system.residuals()).sum(-1)
            parts.append(system.solve(right + (system.chosen * left).sum(-1)))
        return torch.cat(parts).to(coefficients.dtype)


@no_type_check
class System:
    """The linear system of the coefficients of a block of activations, in at least single precision.

    Attributes:
        used, index: (batch, k), which entries of the support are used, and their rows.
        c, x: (batch, k) coefficients and (batch, d) activations.
        chosen: (batch, k, d), the rows of the supports, zeros for unused entries.
    """

    def __init__(
        self,
        support: Int[Tensor, "batch k"],
        coefficients: Float[Tensor, "batch k"],
        x: Float[Tensor, "batch d"],
        rows: Float[Tensor, "n d"],
        least_squares: bool,
    ) -> None:
        self.least_squares = least_squares
        self.used, self.index = support >= 0, support.clamp(min=0)
        self.c, self.x = coefficients, x.to(coefficients.dtype)
        self.chosen = self.gather(rows)

    def gather(self, rows: Float[Tensor, "n d"]) -> Float[Tensor, "batch k d"]:
        """Return the entries (batch, k, d) of rows (n, d) on the supports, zeros for unused ones."""
        return rows[self.index].to(self.c.dtype) * self.used[..., None]

    def solve(self, right: Float[Tensor, "batch k"], transposed: bool = False) -> Float[Tensor, "batch k"]:
        """Solve ``M z = right`` (batch, k), or with M transposed; 0 for unused entries. In double precision."""
        gram = self.chosen @ self.chosen.mT
        matrix = gram.double() + torch.diag_embed((~self.used).double())
        right = (right * self.used).double()[..., None]
        if self.least_squares:
            return torch.linalg.solve(matrix, right)[..., 0].to(self.c.dtype)
        lower = matrix.tril()
        solved = torch.linalg.solve_triangular(lower.mT if transposed else lower, right, upper=transposed)
        return solved[..., 0].to(self.c.dtype)

    def explained(self, rows: Float[Tensor, "batch k d"]) -> Float[Tensor, "batch t d"]:
        """Return what the coefficients make of rows (batch, k, d): up to each of them, or (batch, 1, d) of all."""
        if self.least_squares:
            return self.c[:, None, :] @ rows
        return torch.cumsum(self.c[..., None] * rows, dim=1)

    def residuals(self) -> Float[Tensor, "batch t d"]:
        """Return what the coefficients leave of x: after each step of matching pursuit, or (batch, 1, d) in the end."""
        return self.x[:, None, :] - self.explained(self.chosen)

    def from_here_on(self, u: Float[Tensor, "batch k"]) -> Float[Tensor, "batch t d"]:
        """Return sums of u (batch, k) times the chosen rows: from each of them on, or (batch, 1, d) of all."""
        if self.least_squares:
            return u[:, None, :] @ self.chosen
        return torch.cumsum((u[..., None] * self.chosen).flip(1), dim=1).flip(1)


@no_type_check
def _blocks(support: Int[Tensor, "batch k"], x: Float[Tensor, "batch d"]) -> Iterator[slice]:
    """Yield slices of the batch; a single one while a graph is traced, which is for a batch of any size."""
    if torch.compiler.is_compiling():
        yield slice(None)
        return
    size = max(1, BLOCK_ENTRIES // max(1, support.shape[1] * x.shape[1]))
    for start in range(0, max(1, len(x)), size):
        yield slice(start, start + size)
