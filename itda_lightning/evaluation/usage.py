"""What held-out activations use each atom for, measured in one pass with memory that does not grow with tokens."""

from collections.abc import Callable, Iterable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.reconstruction_error import ReconstructionSums
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.best_per_group import BestPerGroup
from itda_lightning.evaluation.histograms import CoefficientHistograms, Widening, merged_index
from itda_lightning.machine.checks import check_at_least
from itda_lightning.results.run_results import AtomUsage, CoefficientRange, Example, Usage

BINS_PER_RANGE = 8

# One kept coefficient and the columns of its source.
Entry = tuple[float, list[int]]


def measure_usage(
    dictionary: Dictionary,
    batches: Iterable[tuple[Float[Tensor, "batch d"], Int[Tensor, "batch 6"]]],
    prompt_of: Callable[[Source], Prompt],
    *,
    ranges: int = 4,
    examples_per_range: int = 3,
    top: int = 5,
) -> Usage:
    """Encode held-out activations once and count what they use each atom for.

    Args:
        dictionary: what encodes; on any device.
        batches: (activations (batch, d), their sources (batch, 6) int64), of any sizes; read once.
        prompt_of: the text to show for a source. Called at the end, once for each source among the examples kept.
        ranges: into how many equal ranges to cut coefficients of one sign, from 0 to the atom's limit.
        examples_per_range: how many tokens to keep of each range.
        top: how many of the tokens with the largest ``|coefficient|`` to keep.

    Raises:
        InputError: no activations at all, or fewer than one range.
        ValueError: activations of another width than the atoms, or non-finite ones.
    """
    meter = UsageMeter(dictionary, ranges=ranges, examples_per_range=examples_per_range, top=top)
    for x, table in batches:
        meter.update(x, table)
    return meter.compute(prompt_of)


class UsageMeter:
    """``measure_usage`` for activations that arrive batch by batch; see there for the arguments."""

    def __init__(self, dictionary: Dictionary, *, ranges: int = 4, examples_per_range: int = 3, top: int = 5) -> None:
        check_at_least(1, {"ranges": ranges}, "it is the number of ranges of one sign")
        n = dictionary.n_atoms
        self.dictionary = dictionary
        self.ranges = ranges
        self.n_tokens = 0
        self.sums = ReconstructionSums(dictionary.d_in)
        self.l0_counts = torch.zeros(dictionary.k + 1, dtype=torch.int64)
        self.histograms = CoefficientHistograms(n, ranges * BINS_PER_RANGE)
        self.largest = BestPerGroup(n, top)
        self.sampled = BestPerGroup(n * 2 * ranges, examples_per_range)

    def update(self, x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"]) -> None:
        """Count one batch. Raises ValueError for activations that the dictionary cannot encode."""
        x = x.to(self.dictionary.bias.device)
        code = self.dictionary.encode(x).distinct()
        used = code.support >= 0
        self.l0_counts += torch.bincount(used.sum(-1).cpu(), minlength=len(self.l0_counts))
        self.sums.update(self.dictionary.centre(x), code.residual_energy, used.sum(-1))

        token = used.nonzero()[:, 0].cpu()
        atom = code.support[used].cpu()
        coefficient = code.coefficients[used].double().cpu()
        bins, widening = self.histograms.add(atom, coefficient)
        self._merge_ranges(widening)
        table = table.cpu()
        self.largest.add(atom, coefficient.abs(), coefficient, token, table)
        group = atom * 2 * self.ranges + bins // BINS_PER_RANGE
        self.sampled.add(group, _shuffled(self.n_tokens + token), coefficient, token, table)
        self.n_tokens += len(x)

    def compute(self, prompt_of: Callable[[Source], Prompt]) -> Usage:
        """The usage so far. Raises InputError where nothing was counted."""
        if self.n_tokens == 0:
            raise InputError("no held-out activations to measure usage on: give at least one")
        prompts: dict[Source, Prompt] = {}

        def example(coefficient: float, row: list[int]) -> Example:
            source = Source(*row)
            if source not in prompts:
                prompts[source] = prompt_of(source)
            return Example(coefficient, prompts[source])

        reconstruction = self.sums.compute()
        return Usage(
            n_tokens=self.n_tokens,
            residual_energy=reconstruction.squared_error,
            variance=max(0.0, reconstruction.variance),
            l0_histogram=tuple(self.l0_counts.tolist()),
            atoms=tuple(self._atoms(example)),
        )

    def _merge_ranges(self, widening: Widening) -> None:
        parts = torch.arange(2 * self.ranges)
        first = widening.atom[:, None] * 2 * self.ranges
        merged = merged_index(parts, widening.doublings, self.ranges)
        self.sampled.move((first + parts).flatten(), (first + merged).flatten())

    def _atoms(self, example: Callable[[float, list[int]], Example]) -> Iterator[AtomUsage]:
        sources, prompts = self.dictionary.sources, self.dictionary.prompts
        limits, histograms = self.histograms.limits.tolist(), self.histograms.counts.tolist()
        for atom, (limit, counts) in enumerate(zip(limits, histograms, strict=True)):
            largest = _entries(self.largest, atom)
            yield AtomUsage(
                atom=atom,
                source=sources[atom] if sources is not None else None,
                prompt=prompts[atom] if prompts is not None else None,
                count=sum(counts),
                density=sum(counts) / self.n_tokens,
                histogram_limit=limit,
                histogram=tuple(counts),
                top=tuple(example(*entry) for entry in largest),
                ranges=tuple(self._ranges(atom, limit, counts, largest, example)),
            )

    def _ranges(
        self,
        atom: int,
        limit: float,
        counts: list[int],
        largest: list[Entry],
        example: Callable[[float, list[int]], Example],
    ) -> Iterator[CoefficientRange]:
        for part in reversed(range(2 * self.ranges)):
            count = sum(counts[part * BINS_PER_RANGE : (part + 1) * BINS_PER_RANGE])
            if count:
                kept = _entries(self.sampled, atom * 2 * self.ranges + part)
                rest = sorted((entry for entry in kept if entry not in largest), key=lambda entry: -abs(entry[0]))
                low, high = (limit * (edge / self.ranges - 1) for edge in (part, part + 1))
                yield CoefficientRange(low, high, count, tuple(example(*entry) for entry in rest))


def _entries(kept: BestPerGroup, group: int) -> list[Entry]:
    """(coefficient, source) of what a group holds, by falling priority."""
    some = kept.priority[group] > -torch.inf
    return list(zip(kept.coefficient[group][some].tolist(), kept.source[group][some].tolist(), strict=True))


def _shuffled(index: Int[Tensor, " entries"]) -> Float[Tensor, " entries"]:
    """A fixed pseudo-random number in [0, 1) for each token index (the finaliser of SplitMix64).

    Keeping the largest ones of a range is a uniform sample of it that needs no state and no seed.
    """
    mixed = (index + 1) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        mixed = (mixed ^ _shift_right(mixed, shift)) * factor
    mixed = mixed ^ _shift_right(mixed, 31)
    return _shift_right(mixed, 11).double() / 2**53


def _shift_right(value: Int[Tensor, " entries"], shift: int) -> Int[Tensor, " entries"]:
    """A logical shift: torch's own drags the sign bit along."""
    return (value >> shift) & ((1 << (64 - shift)) - 1)
