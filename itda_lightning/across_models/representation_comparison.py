"""Measures of activations for all pairs of sites, on the same tokens, streamed."""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from itda_lightning.across_models.alignment import AlignedActivations
from itda_lightning.across_models.permuted_pairs import NOT_SYMMETRIC, fill_nulls
from itda_lightning.across_models.sampled_comparison import SAMPLED, measure_sample
from itda_lightning.across_models.similarity_settings import SimilaritySettings
from itda_lightning.across_models.site_matrix import SiteMatrix
from itda_lightning.comparison.bootstrap import DocumentGroups
from itda_lightning.errors import InputError
from itda_lightning.measures.aligned import directions
from itda_lightning.measures.angular import angular_procrustes_of
from itda_lightning.measures.cca import pwcca_of, svcca_of
from itda_lightning.measures.cka import cka_of
from itda_lightning.measures.moments import CrossMoments, Moments, Pair
from itda_lightning.measures.neighbours import Neighbours, neighbours_null, shared_neighbours
from itda_lightning.measures.procrustes import procrustes_of
from itda_lightning.measures.regression import regression_r2_of
from itda_lightning.measures.relative import relative_null, unit_relative

OF_MOMENTS: dict[str, Callable[[CrossMoments], float]] = {
    "cka": cka_of,
    "debiased_cka": lambda moments: cka_of(moments, debiased=True),
    "svcca": svcca_of,
    "pwcca": pwcca_of,
    "regression": regression_r2_of,
    "procrustes": procrustes_of,
    "angular_procrustes": angular_procrustes_of,
}
# Memory for the sums of the pairs of sites that are read in one pass over the tokens.
MOMENTS_BYTES = 2**31
# Tokens whose relative representations of all sites are held at a time.
RELATIVE_ROWS = 256


class RepresentationComparison:
    """Measures of the activations of all pairs of sites at the same tokens.

    The tokens are read once each for anchors and neighbours, and once per set of pairs whose sums fit in memory. Raises
    InputError for resamples of tokens of a single document.
    """

    def __init__(self, activations: AlignedActivations, settings: SimilaritySettings) -> None:
        self.activations, self.settings = activations, settings
        self.groups = DocumentGroups(activations.documents, settings.resamples)

    def measure(self, sites: int) -> tuple[dict[str, SiteMatrix], float]:
        """Return every requested measure, and the seconds of the sums that several of them share."""
        names, shared = self.settings.of_activations, 0.0
        matrices = {name: SiteMatrix.ones(sites, self.settings.resamples) for name in names if name in OF_MOMENTS}
        if matrices:
            shared = self._of_moments(list(itertools.combinations(range(sites), 2)), matrices)
        if "relative" in names:
            matrices["relative"] = self._relative()
        if "neighbours" in names:
            matrices["neighbours"] = self._neighbours()
        if sampled := [name for name in names if name in SAMPLED]:
            sample = self._draw(2, self.settings.sample)
            group, rows = self.groups.of(self.activations.documents[sample]), self.activations.at(sample)
            for name in sampled:
                matrices[name] = measure_sample(SAMPLED[name], rows, group, self.groups, self.settings.k)
        return matrices, shared

    def _of_moments(self, pairs: Sequence[Pair], matrices: dict[str, SiteMatrix]) -> float:
        """Fill in all measures of moments; return the seconds of the sums."""
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
            for draw, times in enumerate(tqdm(draws, desc="Measures of the sums, and resamples"), start=-1):
                start = time.perf_counter()
                moments = Moments.combined(parts, times.tolist())
                seconds += time.perf_counter() - start
                for (i, j), (a, b) in zip(chunk, own, strict=True):
                    _fill(matrices, draw, i, j, moments.compute(a, b))
                if draw < 0:
                    each = {pair: moments.compute(*places) for pair, places in zip(chunk, own, strict=True)}
                    seconds += fill_nulls(matrices, OF_MOMENTS, each)
        return seconds

    def _relative(self) -> SiteMatrix:
        """Sum the cosines of relative representations by group; see ``relative_similarity``."""
        start = time.perf_counter()
        anchors = [directions(x) for x in self.activations.at(self._draw(0, self.settings.anchors))]
        sums = torch.zeros(self.groups.n_groups, len(anchors), len(anchors), dtype=torch.float64)
        totals = torch.zeros(len(anchors), self.settings.anchors, dtype=torch.float64)
        for place, x in self.activations.batches("Relative representations"):
            group = self.groups.of(self.activations.documents[place])
            parts = zip(group.split(RELATIVE_ROWS), *(one.split(RELATIVE_ROWS) for one in x), strict=True)
            for groups, *rows in parts:
                relative = torch.stack([unit_relative(z, anchor) for z, anchor in zip(rows, anchors, strict=True)])
                totals += relative.sum(1)
                for one in groups.unique().tolist():
                    # Inner products of all entries of two representations, for all pairs at once.
                    entries = relative[:, groups == one].flatten(1)
                    sums[one] += entries @ entries.T
        first, second = torch.triu_indices(len(anchors), len(anchors), offset=1)
        means = totals / len(self.activations)
        nulls = [relative_null(means[i], means[j]) for i, j in itertools.combinations(range(len(means)), 2)]
        return self._shares(sums[:, first, second].T, self.activations.documents, len(anchors), nulls, start)

    def _neighbours(self) -> SiteMatrix:
        """Sum the shares of common neighbours of queries, among candidates, by group; see ``mutual_neighbours``."""
        start = time.perf_counter()
        # The queries are the first of the candidates that are drawn.
        candidates, queries = self._draw(1, self.settings.candidates), self._draw(1, self.settings.queries)
        places = torch.searchsorted(candidates, queries)
        chosen = torch.zeros(len(self.activations), dtype=torch.bool).index_fill_(0, candidates, True)
        sides = [Neighbours(x, self.settings.k, places) for x in self.activations.at(queries)]
        for place, x in self.activations.batches("Nearest neighbours"):
            for side, part in zip(sides, x, strict=True):
                side.update(part[chosen[place]])
        documents = self.activations.documents[queries]
        shared = [shared_neighbours(one, other) for one, other in itertools.combinations(sides, 2)]
        sums = torch.stack([self.groups.sums(documents, share) for share in shared])
        nulls = [neighbours_null(self.settings.k, len(candidates))] * len(shared)
        return self._shares(sums, documents, len(sides), nulls, start)

    def _draw(self, seed: int, count: int) -> Int[Tensor, " m"]:
        """Return rising indices of tokens drawn at random; the same for the same number of tokens."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randperm(len(self.activations), generator=generator)[:count].sort().values

    def _shares(
        self,
        sums: Float[Tensor, "pairs groups"],
        documents: Int[Tensor, " n"],
        sites: int,
        nulls: Sequence[float],
        start: float,
    ) -> SiteMatrix:
        """Divide the sums of each pair by the numbers of tokens of each group."""
        counts = self.groups.sums(documents, torch.ones(len(documents))).expand(len(sums), -1)
        values, resampled = self.groups.ratios(sums, counts)
        return SiteMatrix.symmetric(sites, list(zip(values, resampled.T, strict=True)), nulls, start)


def check_tokens(n: int, widths: Sequence[int], settings: SimilaritySettings) -> None:
    """Raise InputError if n tokens are too few for a requested measure."""
    largest = sorted(widths)[-2:]
    needed = {"pwcca": sum(largest) + 1, "regression": largest[-1] + 2, "debiased_cka": 4}
    needed |= {"relative": settings.anchors, "neighbours": max(settings.queries, settings.k + 2)}
    needed |= dict.fromkeys(SAMPLED, settings.sample)
    if "aligned_cosine" in settings.measures and settings.sample <= largest[-1]:
        raise InputError(
            f"aligned_cosine needs a sample of more tokens than {largest[-1]:,} dimensions, got {settings.sample:,}: "
            "a rotation fits fewer, whatever they are; raise sample, or leave the measure out"
        )
    for measure in settings.of_activations:
        if n < (fewest := needed.get(measure, 2)):
            raise InputError(
                f"{n:,} held-out tokens in common are too few for {measure}, which needs {fewest:,} "
                "with these settings: raise data.validation_tokens, lower queries, anchors, sample or k, or leave it "
                "out"
            )


def _fill(matrices: dict[str, SiteMatrix], draw: int, i: int, j: int, moments: CrossMoments) -> None:
    """Fill in the measures of one pair: among the values (draw -1) or those of a resample."""
    for name, matrix in matrices.items():
        start, measure = time.perf_counter(), OF_MOMENTS[name]
        target = matrix.values if draw < 0 else matrix.resampled[draw]
        target[i, j] = target[j, i] = measure(moments)
        if name in NOT_SYMMETRIC:
            target[j, i] = measure(moments.swapped)
        matrices[name] = matrix._replace(seconds=matrix.seconds + time.perf_counter() - start)


def _chunks(pairs: Sequence[Pair], widths: Sequence[int], groups: int) -> Iterator[list[Pair]]:
    """Yield as many pairs at a time as memory holds the sums of; at least one."""
    chunk: list[Pair] = []
    for pair in pairs:
        candidates = {*chunk, pair}
        sites = {site for one in candidates for site in one}
        numbers = sum(widths[i] * widths[j] for i, j in candidates) + sum(widths[i] ** 2 for i in sites)
        # The sums of each group, and of a resample.
        if chunk and 8 * numbers * (groups + 1) > MOMENTS_BYTES:
            yield chunk
            chunk = []
        chunk.append(pair)
    yield chunk
