"""Mutual nearest neighbours (Huh, Cheung, Wang, Isola 2024, arXiv 2405.07987)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import blocks, check_aligned, check_directions, check_indices, directions

# Cosines are compared in steps of 2^-40 (9e-13), above the rounding of a product and below any meaningful difference;
# of equal ones the earlier token is nearer. So neighbours depend neither on blocks nor on which duplicate rounds up.
STEPS = 2**40
ABSENT = -2 * STEPS  # below any cosine
MOST_NEIGHBOURS = 2**21
QUERIES_AT_A_TIME = 1024
# Pairs of a query and a reference token whose cosines are computed in float64 at a time.
PAIRS_AT_A_TIME = 2**14


def mutual_neighbours(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], k: int = 10, queries: Int[Tensor, " queries"] | None = None
) -> float:
    """Return the mean share of a token's k nearest tokens in x that are among its k nearest in y, in [0, 1].

    Nearest by cosine, without the token itself, as in the paper. About ``k / (n - 1)`` by chance. Symmetric; invariant
    to rotation and isotropic scale of either side (not to translation: cosines are about the origin). Costs n (d1 + d2)
    multiply-adds per query in float32; neighbours are exact to float64.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, any float dtype.
        k: neighbours per token, from 1 to n - 2; of all n - 1 others the share would always be 1.
        queries: (q,) indices of the tokens whose neighbours are compared; by default all. A sample gives an estimate.

    Raises:
        InputError: as ``MutualNeighbours``; queries out of range.

    Example:
        >>> import torch
        >>> from itda_lightning.measures import mutual_neighbours
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])  # two pairs of neighbours
        >>> mutual_neighbours(x, 3 * x.flip(1), k=1)
        1.0
        >>> mutual_neighbours(x, x[[0, 2, 1, 3]], k=1)  # other pairs
        0.0
    """
    check_aligned((x, y), min_rows=3)
    places = torch.arange(len(x)) if queries is None else queries.cpu()
    check_indices("queries", places, len(x))
    sides = (x, y) if queries is None else (x[queries], y[queries])
    neighbours = MutualNeighbours(*sides, k=k, places=places)
    neighbours.check_candidates(len(x))
    neighbours.update(x, y)
    return neighbours.compute()


class MutualNeighbours:
    """Accumulator of ``mutual_neighbours`` of some tokens, the queries, among reference tokens that arrive in batches.

    Holds the queries, k token indices and cosines per query on either side, and a few blocks of 1,024 x 4,096 numbers
    at work; no reference token.

    Attributes:
        n: reference tokens so far.
    """

    def __init__(
        self,
        queries_x: Float[Tensor, "q d1"],
        queries_y: Float[Tensor, "m d2"],
        k: int = 10,
        places: Int[Tensor, " places"] | None = None,
    ) -> None:
        """``places``: position of each query itself in the stream of reference tokens; -1 for absent (the default).

        Raises InputError as ``check_aligned``, and for an all-zero row, k below 1, or not one place per query.
        """
        check_aligned((queries_x, queries_y), min_rows=1)
        check_directions(queries_x, queries_y)
        if not 1 <= k < MOST_NEIGHBOURS:
            raise InputError(f"k must be at least 1 neighbour, got {k}")
        if places is not None and len(places) != len(queries_x):
            raise InputError(f"{len(places)} places for {len(queries_x)} queries: give one per query, -1 for absent")
        self.n = 0
        self._k = k
        self._places = torch.full((len(queries_x),), -1) if places is None else places.cpu()
        self._sides = [Neighbours(queries, k, self._places) for queries in (queries_x, queries_y)]

    def update(self, x: Float[Tensor, "batch d1"], y: Float[Tensor, "m d2"]) -> None:
        """Add a batch of reference tokens. Raises InputError as ``check_aligned``, and for an all-zero row."""
        check_aligned((x, y), [side.queries.shape[1] for side in self._sides])
        check_directions(x, y)
        for side, reference in zip(self._sides, (x, y), strict=True):
            side.update(reference)
        self.n += len(x)

    def check_candidates(self, n: int) -> None:
        """Raise InputError if k is out of range for n reference tokens."""
        candidates = n - int((self._places >= 0).any())
        if self._k >= candidates:
            raise InputError(
                f"k must be from 1 to {candidates - 1} with {candidates} tokens to choose neighbours from, got "
                f"{self._k}: of all of them the share would always be 1"
            )

    def compute(self) -> float:
        """Return the mean share of common neighbours so far. Raises InputError as ``check_candidates``."""
        self.check_candidates(self.n)
        return float(shared_neighbours(*self._sides).mean())


class Neighbours:
    """The k nearest reference tokens of each query so far, nearest first; of equally near ones the earlier first.

    Searches in one representation; ``shared_neighbours`` compares any two. Reference tokens arrive in batches and must
    have directions, as ``MutualNeighbours`` checks; ``tokens`` (q, k) are their indices in the stream, -1 if absent.

    A product in float32 screens a block: what it puts below the k nearest so far by more than its own error cannot be
    among them. Only the few others get a cosine in float64, so the result is that of float64 throughout.
    """

    def __init__(self, queries: Float[Tensor, "q d"], k: int, places: Int[Tensor, " q"]) -> None:
        """``places``: position of each query itself in the stream of reference tokens; -1 for absent."""
        self.queries, self.n, self._places = directions(queries), 0, places
        self.tokens = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
        self._steps = torch.full_like(self.tokens, ABSENT)

    def update(self, reference: Float[Tensor, "batch d"]) -> None:
        """Add a batch of reference tokens."""
        for (block,) in blocks(reference):
            block = directions(block)
            screen = block.to(_screening_dtype())
            for start in range(0, len(self.queries), QUERIES_AT_A_TIME):
                self._search(slice(start, start + QUERIES_AT_A_TIME), block, screen)
            self.n += len(block)

    def _search(self, rows: slice, reference: Float[Tensor, "block d"], screen: Float[Tensor, "block d"]) -> None:
        """Put the reference tokens that are nearer than the neighbours so far of some queries among them."""
        queries, steps, k = self.queries[rows], self._steps[rows], self.tokens.shape[1]
        cosines = queries.to(screen.dtype) @ screen.T
        place = self._places[rows] - self.n
        own = ((place >= 0) & (place < len(reference))).nonzero()[:, 0]
        cosines[own.to(cosines.device), place[own].to(cosines.device)] = -torch.inf
        error = screening_error(reference.shape[1])
        floor = steps[:, -1] / STEPS - error
        if bool((floor < -1).any()) and len(reference) > k:
            # The first tokens: a cosine that k of them exceed by twice the error is not among the k largest.
            floor = torch.maximum(floor, cosines.topk(k, dim=1).values[:, -1].double() - 2 * error)
        query, token = (cosines >= floor.to(cosines.dtype)[:, None]).nonzero().T
        if not len(query):
            return
        exact = torch.cat(
            [
                (queries[one] * reference[other]).sum(1)
                for one, other in zip(query.split(PAIRS_AT_A_TIME), token.split(PAIRS_AT_A_TIME), strict=True)
            ]
        )
        # Neighbours so far stand before the new ones, and those in their order: stable sorts keep the earlier first.
        every = torch.arange(len(queries), device=query.device).repeat_interleave(k)
        query, found = torch.cat([every, query]), torch.cat([self.tokens[rows].flatten(), self.n + token])
        all_steps = torch.cat([steps.flatten(), (exact * STEPS).round_().long()])
        order = all_steps.argsort(descending=True, stable=True)
        order = order[query[order].argsort(stable=True)]
        ends = query.bincount(minlength=len(queries)).cumsum(0)
        best = order[(ends - query.bincount(minlength=len(queries)))[:, None] + torch.arange(k, device=query.device)]
        self._steps[rows], self.tokens[rows] = all_steps[best], found[best]


def screening_error(d: int) -> float:
    """Bound the error of a cosine of d dimensions whose unit vectors and product are rounded to float32.

    Any order of summation errs by at most ``d u`` times the sum of absolute products, which is at most 1 (Higham 2002,
    Accuracy and Stability of Numerical Algorithms, Section 3.1); rounding the vectors adds ``2 u``. The next steps are
    rounded up to, and so is the step of ``STEPS``.
    """
    return (d + 4) * 2.0**-23


def _screening_dtype() -> torch.dtype:
    """Return float32, or float64 where torch was told to multiply float32 with fewer digits."""
    return torch.float32 if torch.get_float32_matmul_precision() == "highest" else torch.float64


def shared_neighbours(x: Neighbours, y: Neighbours) -> Float[Tensor, " q"]:
    """Return for each query the share of its k neighbours that two representations have in common; (q,) float64."""
    # No index comes twice on a side, so equal ones after sorting are common to both.
    both = torch.cat([x.tokens, y.tokens], dim=1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).double().sum(1) / x.tokens.shape[1]


def neighbours_null(k: int, n: int) -> float:
    """Return the mean share over all permutations of the rows of y: ``k / (n - 1)``, exactly, for tokens among n."""
    return k / (n - 1)
