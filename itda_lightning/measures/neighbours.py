"""Mutual nearest neighbours (Huh, Cheung, Wang, Isola 2024, The Platonic Representation Hypothesis, arXiv 2405.07987)."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import blocks, check_aligned, check_directions, directions

# Cosines are compared in steps of 2^-40 (9e-13), above the rounding of a product and below any meaningful difference; among
# equal ones the earlier token is nearer. So the neighbours do not depend on blocks, nor on which duplicate rounds up.
STEPS = 2**40
# Room for a place in a list of candidates, below the step in one integer.
PLACES = 2**22
QUERIES_AT_A_TIME = 1024


def mutual_neighbours(
    x: Float[Tensor, "n d1"], y: Float[Tensor, "m d2"], k: int = 10, queries: Int[Tensor, " queries"] | None = None
) -> float:
    """The mean share of a token's k nearest tokens in x that are among its k nearest in y, in [0, 1].

    Nearest by cosine, the token itself left out, as in the paper. About ``k / (n - 1)`` by chance. Symmetric; invariant to
    rotation and isotropic scale of either side (not to translation: cosines are about the origin). Costs
    n (d1 + d2) multiply-adds in float64 a query.

    Args:
        x, y: (n, d1) and (n, d2) representations of the same n tokens, of any float type.
        k: neighbours of each token, from 1 to n - 2; of all n - 1 others the share would always be 1.
        queries: (q,) indices of the tokens whose neighbours are compared, all by default; a sample gives an estimate.

    Raises:
        InputError: as ``MutualNeighbours``; queries out of range.
    """
    check_aligned((x, y), min_rows=3)
    places = torch.arange(len(x)) if queries is None else queries.cpu()
    if not len(places) or int(places.min()) < 0 or int(places.max()) >= len(x):
        raise InputError(f"queries must be indices of the {len(x)} tokens, got {places.tolist()[:5]}...")
    chosen = (x, y) if queries is None else (x[queries], y[queries])
    running = MutualNeighbours(*chosen, k=k, places=places)
    running.check_candidates(len(x))
    running.add(x, y)
    return running.value()


class MutualNeighbours:
    """``mutual_neighbours`` of some tokens, the queries, among reference tokens that arrive in batches.

    Holds the queries as given, k token indices and cosines of each on either side, and a few blocks of 1,024 x 4,096
    numbers at work; nothing of the reference.

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
        """``places``: where in the stream of reference tokens each query itself will come, -1 for nowhere (the default).

        Raises:
            InputError: as ``check_aligned``, an all-zero row, k below 1, or not one place a query.
        """
        check_aligned((queries_x, queries_y), min_rows=1)
        for name, value in (("x", queries_x), ("y", queries_y)):
            check_directions(value, name)
        if not 1 <= k < PLACES // 2:
            raise InputError(f"k must be at least 1 neighbour, got {k}")
        if places is not None and len(places) != len(queries_x):
            raise InputError(f"{len(places)} places for {len(queries_x)} queries: give one a query, -1 for nowhere")
        self.n = 0
        self._k = k
        self._places = torch.full((len(queries_x),), -1) if places is None else places.cpu()
        self._sides = [Neighbours(queries, k, self._places) for queries in (queries_x, queries_y)]

    def add(self, x: Float[Tensor, "batch d1"], y: Float[Tensor, "m d2"]) -> None:
        """Add reference tokens.

        Raises:
            InputError: as ``check_aligned``; an all-zero row, which has no direction.
        """
        check_aligned((x, y), [side.queries.shape[1] for side in self._sides])
        for name, value in (("x", x), ("y", y)):
            check_directions(value, name)
        for side, reference in zip(self._sides, (x, y), strict=True):
            side.add(reference)
        self.n += len(x)

    def check_candidates(self, n: int) -> None:
        """Raises InputError where k is out of range for n reference tokens."""
        candidates = n - int((self._places >= 0).any())
        if self._k >= candidates:
            raise InputError(
                f"k must be from 1 to {candidates - 1} with {candidates} tokens to choose neighbours from, got {self._k}: "
                "of all of them the share would always be 1"
            )

    def shares(self) -> Float[Tensor, " q"]:
        """Of each query, the share of its neighbours that both sides have, among the reference tokens so far; float64.

        Raises:
            InputError: k neighbours or fewer to choose from.
        """
        self.check_candidates(self.n)
        return shared_neighbours(*self._sides)

    def value(self) -> float:
        """The mean of ``shares``."""
        return float(self.shares().mean())


class Neighbours:
    """The k reference tokens that are nearest to each query so far, nearest first, the earlier first among equals.

    Of one representation; several are compared by ``shared_neighbours`` without searching again for each pair. Reference
    tokens arrive in batches and must have directions, as ``MutualNeighbours`` checks.

    Attributes:
        n: reference tokens so far.
        tokens: (q, k) int64 their indices in the stream; -1 where there were fewer.
    """

    def __init__(self, queries: Float[Tensor, "q d"], k: int, places: Int[Tensor, " q"]) -> None:
        """``places``: where in the stream of reference tokens each query itself will come, -1 for nowhere."""
        self.queries, self.n = queries, 0
        self._places = places
        # Below any cosine.
        self._steps = torch.full((len(queries), k), -STEPS - 1, dtype=torch.int64, device=queries.device)
        self.tokens = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)

    def add(self, reference: Float[Tensor, "batch d"]) -> None:
        """Add reference tokens."""
        for (block,) in blocks(reference):
            self._add(directions(block))
            self.n += len(block)

    def _add(self, reference: Float[Tensor, "block d"]) -> None:
        count, k = len(reference), self.tokens.shape[1]
        found = torch.arange(self.n, self.n + count, device=self.tokens.device)
        order = torch.arange(k + count, device=self.tokens.device)
        for start in range(0, len(self.queries), QUERIES_AT_A_TIME):
            rows = slice(start, start + QUERIES_AT_A_TIME)
            steps = ((directions(self.queries[rows]) @ reference.T) * STEPS).round_().long()
            own = self._places[rows] - self.n
            here = ((own >= 0) & (own < count)).nonzero().squeeze(1)
            steps[here.to(steps.device), own[here].to(steps.device)] = -STEPS - 1
            steps = torch.cat([self._steps[rows], steps], dim=1)
            # What was found before stands first, so a lower place is an earlier token.
            best = (steps * PLACES - order).topk(k, dim=1).indices
            tokens = torch.cat([self.tokens[rows], found.expand(len(steps), count)], dim=1)
            self._steps[rows], self.tokens[rows] = steps.gather(1, best), tokens.gather(1, best)


def shared_neighbours(x: Neighbours, y: Neighbours) -> Float[Tensor, " q"]:
    """(q,) float64 of each query, the share of its k neighbours that both representations of the same tokens have."""
    # No index comes twice on a side, so equal ones after sorting are common to both.
    both = torch.cat([x.tokens, y.tokens], dim=1).sort(dim=1).values
    return (both[:, 1:] == both[:, :-1]).double().sum(1) / x.tokens.shape[1]
