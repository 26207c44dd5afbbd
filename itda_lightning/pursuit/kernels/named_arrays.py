"""The arguments of the compiled loops, as numba takes them: arrays that belong together, under names."""

from typing import NamedTuple

from itda_lightning.pursuit.kernels.jit import Atoms, Bits, Double, Entries, Flags, Index, Single


class Problem(NamedTuple):
    """Activations, atoms, and when a pursuit ends."""

    x: Single  # (batch, d)
    atoms: Atoms  # (capacity, d) float32, or the bits of bfloat16 in 16-bit integers, which become float32 in each sum
    visible: Index  # (batch,) the number of first atoms that each activation may use
    target: Double  # (batch,) residual energies at which pursuits end
    noise_floor: float  # scores up to this share of |x| are rounding noise
    min_new_direction: float  # squared norm outside the span of the support that an atom needs
    rounding: float  # bound of the error of an inner product, relative to the product of norms
    orthogonal: bool
    nonnegative: bool


class Screen(NamedTuple):
    """Screened scores of the first ``n_atoms`` atoms, and the bound of their errors."""

    scores: Single  # (rows, groups, GROUP); the last group ends in zeros. The loops overwrite them.
    error: Single  # (rows,) bound of the error
    relative: float  # further error, as a share of the row's largest |score|
    n_atoms: int


class Products(NamedTuple):
    """Products of activations with the atoms from ``first`` on, and the bound of their errors."""

    bits: Bits  # (rows, m) numbers of float32 or bfloat16, as integers of the same bits
    error: Single  # (rows,) bound of the error
    relative: float  # further error, as a share of the row's largest |score|
    first: int
    without_support: bool  # no atom may be chosen again


class Gram(NamedTuple):
    """Inner products of atoms: (capacity, padded) multiples of ``unit``, off by at most half of it."""

    entries: Entries
    unit: float


class Code(NamedTuple):
    """Codes to fill in: (batch, k), (batch, k) and (batch,), the support with -1 and the coefficients with 0 before."""

    support: Index
    coefficients: Single
    energy: Double


class Path(NamedTuple):
    """The arrays of a ``Path``, with no rows if none is wanted."""

    best: Single
    history: Single


class Work(NamedTuple):
    """Scratch of one step: what it adds to each coefficient (k,), (2, k), (k,), and the support's factor (k, k).

    ``inverse`` holds the inverse of the Cholesky factor of the support's Gram matrix, whose rows turn its atoms into
    orthonormal directions.
    """

    change: Double
    scratch: Double
    weights: Single
    inverse: Double


class Room(NamedTuple):
    """Memory of the pursuit of one activation in the Gram form."""

    residual: Single  # (d,)
    exact: Flags  # which scores were computed exactly
    maxima: Single  # (groups,) the largest score of each group
    coefficients: Double  # (k,)
    has_gram_row: Flags  # which of the atoms behind the screened ones have their row of the Gram
    work: Work


class Progress(NamedTuple):
    """Pursuits between two steps, in the form without a Gram."""

    rows: Index  # the activations that take the next step
    active: Flags  # (batch,) which pursuits have not ended
    support: Index
    coefficients: Double
    energy: Double
    residual: Single  # (batch, d)
    floor: Double  # (batch,) scores that are rounding noise
    matrix: Double  # (batch, k, k) factors of the pursuit's own; one for all if it needs none
    vector: Double  # (batch, k) likewise


class Choice(NamedTuple):
    """(batch, width) the best atoms of a step so far, the best first, and their scores; -1 and 0 if there are fewer."""

    atoms: Index
    scores: Double
