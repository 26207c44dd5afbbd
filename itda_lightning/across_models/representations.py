"""Measures of activations for all pairs of sites, on the same tokens, streamed."""

import time
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.across_models.aligned_activations import AlignedActivations
from itda_lightning.across_models.measured import Measured
from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.comparison.bootstrap import DocumentGroups
from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import directions
from itda_lightning.measures.cka import cka_of
from itda_lightning.measures.moments import CrossMoments, Moments
from itda_lightning.measures.neighbours import Neighbours, shared_neighbours
from itda_lightning.measures.procrustes import procrustes_of
from itda_lightning.measures.cca import pwcca_of
from itda_lightning.measures.regression import regression_r2_of
from itda_lightning.measures.cca import svcca_of

OF_MOMENTS: dict[str, Callable[[CrossMoments], float]] = {
    "cka": cka_of,
    "debiased_cka": lambda moments: cka_of(moments, debiased=True),
    "svcca": svcca_of,
    "pwcca": pwcca_of,
    "regression": regression_r2_of,
    "procrustes": procrustes_of,
}
NOT_SYMMETRIC = ("pwcca", "regression")
# Of the sums of as many pairs of layers as are taken in one pass over the tokens.
MOMENTS_BYTES = 2**31
# Tokens whose relative representations of all layers are held at a time.
RELATIVE_ROWS = 256

Pair = tuple[int, int]


class Representations:
    """The activations of some sites on the same tokens, and the measures of all pairs of them.

    Args:
        activations: the stream; read once for anchors and neighbours and once for as many pairs as memory holds sums
            of.
        settings: which measures, and how many resamples, anchors, queries and neighbours.

    Raises:
        InputError: tokens of one document only, of which no resample can be drawn.
    """

    def __init__(self, activations: AlignedActivations, settings: SimilaritySettings) -> None:
        self.activations, self.settings = activations, settings
        self.groups = DocumentGroups(activations.documents, settings.resamples)

    def measure(self, sites: int) -> tuple[dict[str, Measured], float]:
        """Every measure asked for, and the seconds that the sums took which several share."""
        wanted = self.settings.of_activations
        found = {name: Measured.ones(sites, self.settings.resamples) for name in wanted}
        pairs = [(i, j) for i in range(sites) for j in range(i + 1, sites)]
        shared = 0.0
        if set(wanted) & set(OF_MOMENTS):
            shared = self._of_moments(pairs, found)
        if "relative" in wanted:
            found["relative"] = self._relative(pairs, found["relative"])
        if "neighbours" in wanted:
            found["neighbours"] = self._neighbours(pairs, found["neighbours"])
        return found, shared

    def _of_moments(self, pairs: Sequence[Pair], found: dict[str, Measured]) -> float:
        """Fills in the values of all measures of moments; returns the seconds of the sums."""
        widths, seconds = [x.shape[1] for x in self.activations.at(torch.arange(1))], 0.0
        chunks = list(_chunks(pairs, widths, self.groups.n_groups))
        for number, chunk in enumerate(chunks):
            start = time.perf_counter()
            used = sorted({site for pair in chunk for site in pair})
            own = [(used.index(i), used.index(j)) for i, j in chunk]
            parts = [Moments(own) for _ in range(self.groups.n_groups)]
            for place, x in self.activations.batches(f"Sums, part {number + 1} of {len(chunks)}"):
                group = self.groups.of(self.activations.documents[place])
                for one in group.unique().tolist():
                    parts[one].update(*(x[site][group == one] for site in used))
            seconds += time.perf_counter() - start
            draws = [torch.ones(self.groups.n_groups, dtype=torch.int64), *self.groups.times]
            for draw, times in enumerate(tqdm(draws, desc="Measures of the sums, and resamples")):
                start = time.perf_counter()
                moments = Moments.combined(parts, times.tolist())
                seconds += time.perf_counter() - start
                for (i, j), (a, b) in zip(chunk, own, strict=True):
                    _fill(found, draw - 1, i, j, moments.compute(a, b))
        return seconds

    def _relative(self, pairs: Sequence[Pair], empty: Measured) -> Measured:
        """Sums of the cosines of relative representations, group by group; see ``relative_similarity``."""
        start = time.perf_counter()
        anchors = [directions(x) for x in self.activations.at(self._draw("anchors", self.settings.anchors))]
        sums = torch.zeros(self.groups.n_groups, len(anchors), len(anchors), dtype=torch.float64)
        for place, x in self.activations.batches("Relative representations"):
            group = self.groups.of(self.activations.documents[place])
            parts = zip(group.split(RELATIVE_ROWS), *(one.split(RELATIVE_ROWS) for one in x), strict=True)
            for groups, *rows in parts:
                relative = torch.stack([directions(z) @ anchor.T for z, anchor in zip(rows, anchors, strict=True)])
                relative = torch.nn.functional.normalize(relative, dim=2, eps=1e-30)
                for one in groups.unique().tolist():
                    # Of all pairs at once: the inner products of all entries of two representations.
                    entries = relative[:, groups == one].flatten(1)
                    sums[one] += entries @ entries.T
        first, second = torch.tensor(pairs).T
        documents = self.activations.documents
        counts = self.groups.sums(documents, torch.ones(len(documents))).expand(len(pairs), -1)
        return self._of_ratios(pairs, sums[:, first, second].T, counts, empty, start)

    def _neighbours(self, pairs: Sequence[Pair], empty: Measured) -> Measured:
        """Sums of the shares of common neighbours of queries, group by group; see ``mutual_neighbours``."""
        start = time.perf_counter()
        queries = self._draw("queries", self.settings.queries)
        sides = [Neighbours(x, self.settings.k, queries) for x in self.activations.at(queries)]
        for _, x in self.activations.batches("Nearest neighbours"):
            for side, part in zip(sides, x, strict=True):
                side.update(part)
        documents = self.activations.documents[queries]
        sums = [self.groups.sums(documents, shared_neighbours(sides[i], sides[j])) for i, j in pairs]
        counts = self.groups.sums(documents, torch.ones(len(queries)))
        return self._of_ratios(pairs, torch.stack(sums), counts.expand(len(pairs), -1), empty, start)

    def _draw(self, what: str, wanted: int) -> Int[Tensor, " m"]:
        """Tokens drawn at random, the same ones for the same tokens; rising."""
        generator = torch.Generator().manual_seed(("anchors", "queries").index(what))
        return torch.randperm(len(self.activations), generator=generator)[:wanted].sort().values

    def _of_ratios(
        self, pairs: Sequence[Pair], above: Tensor, below: Tensor, empty: Measured, start: float
    ) -> Measured:
        values, resampled = self.groups.ratios(above, below)
        for (i, j), value, values_of_resamples in zip(pairs, values, resampled.T, strict=True):
            empty.put(i, j, value, values_of_resamples)
        return empty._replace(seconds=time.perf_counter() - start)


def check_tokens(n: int, widths: Sequence[int], settings: SimilaritySettings) -> None:
    """Raises InputError where n tokens are too few for a measure that is asked for."""
    largest = sorted(widths)[-2:]
    needed = {"pwcca": sum(largest) + 1, "regression": largest[-1] + 2, "debiased_cka": 4}
    if "relative" in settings.measures:
        needed["relative"] = settings.anchors
    if "neighbours" in settings.measures:
        needed["neighbours"] = max(settings.queries, settings.k + 2)
    for measure in settings.of_activations:
        if n < needed.get(measure, 2):
            raise InputError(
                f"{n:,} held-out tokens in common are too few for {measure}, which needs {needed.get(measure, 2):,} "
                "with these settings: raise data.validation_tokens, lower queries, anchors or k, or leave the measure "
                "out"
            )


def _fill(found: dict[str, Measured], draw: int, i: int, j: int, moments: CrossMoments) -> None:
    """Put the measures of one pair where they belong: among the values (draw -1) or those of a resample."""
    for name, measure in OF_MOMENTS.items():
        if name not in found:
            continue
        start = time.perf_counter()
        forth = measure(moments)
        back = measure(moments.swapped) if name in NOT_SYMMETRIC else forth
        target = found[name].values if draw < 0 else found[name].resampled[draw]
        target[i, j], target[j, i] = forth, back
        found[name] = found[name]._replace(seconds=found[name].seconds + time.perf_counter() - start)


def _chunks(pairs: Sequence[Pair], widths: Sequence[int], groups: int) -> Iterator[list[Pair]]:
    """As many pairs at a time as there is room for the sums of; at least one."""
    chunk: list[Pair] = []
    for pair in pairs:
        wanted = {*chunk, pair}
        sites = {site for one in wanted for site in one}
        numbers = sum(widths[i] * widths[j] for i, j in wanted) + sum(widths[i] ** 2 for i in sites)
        # Those of each group, and of a resample.
        if chunk and 8 * numbers * (groups + 1) > MOMENTS_BYTES:
            yield chunk
            chunk = []
        chunk.append(pair)
    yield chunk
