"""Measure what held-out activations use each atom for."""

import functools
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.reconstruction_error import ReconstructionSums
from itda_lightning.dictionary.sources import Prompt, Source
from itda_lightning.evaluation.held_out_codes import CodesMeter, HeldOutCodes, best_of_groups
from itda_lightning.evaluation.used_latents import used_of
from itda_lightning.machine.checks import check_at_least
from itda_lightning.pursuit import SparseCode
from itda_lightning.results.run_results import AtomUsage, CoefficientRange, Detection, Example, Usage

BINS_PER_RANGE = 8
SHARES = 20  # bins of the unexplained share
# Of the order in which examples of a range are drawn: the same tokens are shown each time.
SEED = 0


def unexplained_shares(
    dictionary: Dictionary, x: Float[Tensor, "batch d"], code: SparseCode
) -> Float[Tensor, " batch"]:
    """Return the share of ``|x - bias|^2`` that the code of each activation leaves, 0 for the bias itself."""
    energy = dictionary.centre(x).double().square().sum(-1)
    return torch.where(energy > 0, code.residual_energy.double() / energy, 0.0)


class UsageMeter:
    """Count what held-out activations use each atom of a dictionary, which may be on any device, for.

    Coefficients of either sign have ``ranges`` equal ranges from 0 to the atom's limit, each with examples drawn at
    random; ``top`` are the examples with the largest ``|coefficient|``, and as many are detected
    (``Dictionary.detect``), if their cosine is above 0. Raises InputError for fewer than one range.
    """

    def __init__(self, dictionary: Dictionary, *, ranges: int = 4, examples_per_range: int = 3, top: int = 5) -> None:
        check_at_least(1, {"ranges": ranges}, "it is the number of ranges of one sign")
        self.dictionary = dictionary
        self.ranges, self.examples_per_range, self.top = ranges, examples_per_range, top
        self._reconstruction = ReconstructionSums(dictionary.d_in)
        self._l0_counts = torch.zeros(dictionary.k + 1, dtype=torch.int64)
        self._shares = torch.zeros(SHARES, dtype=torch.int64)
        self._codes = CodesMeter(dictionary.n_atoms)
        self._cosines = torch.full((dictionary.n_atoms, top), -torch.inf)
        self._detected = torch.full((dictionary.n_atoms, top), -1)

    def update(self, x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"]) -> Float[Tensor, " batch"]:
        """Encode a batch with its sources; return the unexplained share of each activation.

        Raises ValueError for another width than the atoms', or non-finite rows.
        """
        x = x.to(self.dictionary.bias.device)
        code = self.dictionary.encode(x).distinct()
        l0 = (code.support >= 0).sum(-1)
        self._reconstruction.update(self.dictionary.centre(x), code.residual_energy, l0)
        self._l0_counts += torch.bincount(l0.cpu(), minlength=len(self._l0_counts))
        shares = unexplained_shares(self.dictionary, x, code).cpu()
        self._shares += torch.bincount((shares * SHARES).long().clamp(0, SHARES - 1), minlength=SHARES)
        self._detect(x)
        self._codes.update([used_of(code)], table)
        return shares

    def _detect(self, x: Float[Tensor, "batch d"]) -> None:
        """Keep the largest cosine with each atom so far, and their tokens."""
        found = self.dictionary.detect(x).T
        cosine, token = (part.cpu() for part in found.topk(min(self.top, len(x)), dim=1))
        cosines = torch.cat([self._cosines, cosine.float()], dim=1)
        tokens = torch.cat([self._detected, token + self._codes.n_tokens], dim=1)
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, : self.top]
        self._cosines, self._detected = cosines.gather(1, order), tokens.gather(1, order)

    def compute(self, prompt_of: Callable[[Source], Prompt]) -> Usage:
        """Return the usage so far; ``prompt_of`` is called once per source among the examples.

        Raises:
            InputError: no activations.
        """
        codes, reconstruction = self._codes.compute(), self._reconstruction.compute()
        return Usage(
            n_tokens=codes.n_tokens,
            residual_energy=reconstruction.squared_error,
            variance=max(0.0, reconstruction.variance),
            l0_histogram=tuple(self._l0_counts.tolist()),
            atoms=tuple(self._atoms(codes, prompt_of)),
            unexplained=tuple(self._shares.tolist()),
        )

    def _atoms(self, codes: HeldOutCodes, prompt_of: Callable[[Source], Prompt]) -> Iterator[AtomUsage]:
        table, token, activation = codes.sources.numpy(), codes.token.numpy(), codes.activation.numpy()
        prompt_once = functools.cache(prompt_of)

        def example(use: int) -> Example:
            return Example(float(activation[use]), prompt_once(Source(*table[token[use]].tolist())))

        labels, prompts = self.dictionary.labels.tolist(), self.dictionary.label_prompts
        half = self.ranges * BINS_PER_RANGE
        # The highest of a random number per token: a uniform sample of each range.
        random = torch.rand(codes.n_tokens, generator=torch.Generator().manual_seed(SEED))[codes.token]
        group = codes.latent * 2 * self.ranges + codes.bins(half) // BINS_PER_RANGE
        sampled = best_of_groups(group, random, len(codes.counts) * 2 * self.ranges, self.examples_per_range)
        columns = zip(
            codes.limits.tolist(),
            codes.histograms(half).tolist(),
            codes.largest(self.top).tolist(),
            sampled.view(len(codes.counts), 2 * self.ranges, self.examples_per_range).tolist(),
            self._detected.tolist(),
            self._cosines.tolist(),
            strict=True,
        )
        for atom, (limit, histogram, largest, drawn, detected, cosines) in enumerate(columns):
            count = sum(histogram)
            yield AtomUsage(
                atom=atom,
                source=Source(*labels[atom]) if self.dictionary.dataset is not None else None,
                prompt=prompts[atom] if prompts is not None else None,
                count=count,
                density=count / codes.n_tokens,
                histogram_limit=limit,
                histogram=tuple(histogram),
                top=tuple(example(use) for use in largest if use >= 0),
                ranges=tuple(self._ranges(limit, histogram, set(largest), drawn, example)),
                detected=tuple(
                    Detection(cosine, prompt_once(Source(*table[found].tolist())))
                    for found, cosine in zip(detected, cosines, strict=True)
                    if cosine > 0
                ),
            )

    def _ranges(
        self,
        limit: float,
        histogram: list[int],
        largest: set[int],
        drawn: list[list[int]],
        example: Callable[[int], Example],
    ) -> Iterator[CoefficientRange]:
        """Make the ranges of an atom that have tokens, highest first, without the examples already in ``largest``."""
        for part in reversed(range(2 * self.ranges)):
            count = sum(histogram[part * BINS_PER_RANGE : (part + 1) * BINS_PER_RANGE])
            if count:
                low, high = (limit * (edge / self.ranges - 1) for edge in (part, part + 1))
                examples = [example(use) for use in drawn[part] if use >= 0 and use not in largest]
                examples.sort(key=lambda shown: -abs(shown.coefficient))
                yield CoefficientRange(low, high, count, tuple(examples))
