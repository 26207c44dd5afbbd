"""Atoms of one ITDA beside the nearest latents of other entries, each with its uses and its logit effects."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.held_out_codes import POSITION, ROW, CodesMeter, evenly
from itda_lightning.evaluation.logit_effects import Unembedding, token_texts
from itda_lightning.evaluation.used_latents import Used, directions_of, used_latents
from itda_lightning.machine.checks import check_at_least
from itda_lightning.results.comparison import LatentSummary, LatentView, NearestLatents


def latent_view(
    itda: Entry,
    others: Sequence[Entry],
    data: ActivationsDataModule,
    hook_name: str,
    language_model: LanguageModel | None,
    *,
    max_atoms: int = 16_384,
    top: int = 10,
    bins: int = 32,
    effects: int = 10,
) -> LatentView:
    """Find the nearest latents of every atom and measure both on the held-out activations, in one pass over them.

    Two latents are near if the directions that they write have a large cosine. An atom with a negative coefficient
    writes the opposite of its direction, so if the coefficients of either side have both signs, the largest
    ``|cosine|`` counts and the cosine keeps its sign. Memory is bounded by the latents shown and their uses, and by the
    blocks of codes and of cosines.

    Args:
        itda: the ITDA whose atoms are shown.
        others: the other entries, in the order shown.
        data: its held-out activations are measured; its settings decide about position 0 and special tokens.
        hook_name: the hook point of all entries.
        language_model: for logit effects, which are left empty without it or without its ``Unembedding``.
        max_atoms: largest number of atoms shown, evenly chosen by index, which is their order of growth.
        top, bins: examples and bins of the histogram per latent; see ``LatentUsageMeter``.
        effects: number of promoted and of suppressed tokens shown per latent.

    Raises:
        InputError: an entry without a dictionary as ``itda``; directions that are not finite; atoms of another width
            than the activations; numbers out of range.
    """
    dictionary = itda.dictionary
    if dictionary is None:
        raise InputError(f"latents are shown beside the atoms of an ITDA, but {itda.name} is none")
    check_at_least(1, {"max_atoms": max_atoms, "effects": effects})
    entries = [itda, *others]
    for entry in entries:
        if not bool(directions_of(entry).isfinite().all()):
            raise InputError(f"{entry.name} has decoder rows that are not finite: check how it was trained or saved")
    atoms = evenly(dictionary.n_atoms, max_atoms)
    shown = dictionary.atoms[atoms.to(dictionary.atoms.device)]
    rows = data.rows("heldout")

    nearest = []
    for other in others:
        signed = not dictionary.nonnegative or (other.dictionary is not None and not other.dictionary.nonnegative)
        nearest.append(nearest_directions(shown, directions_of(other), signed))
    chosen = [atoms, *(direction.unique() for direction, _ in nearest)]
    meters = [
        LatentUsageMeter(entry, latents, rows.context_size, top, bins)
        for entry, latents in zip(entries, chosen, strict=True)
    ]
    description = "Latents on held-out activations"
    for x, table in data.heldout_batches(hook_name, d_in=dictionary.d_in, description=description):
        for meter in meters:
            meter.update(x, table)

    unembedding = Unembedding.of(language_model, hook_name) if language_model is not None else None
    written = [_effects(unembedding, meter, effects) for meter in meters]
    tokens = torch.cat([ids.flatten() for ids in written]).unique()
    summaries = [
        tuple(
            replace(summary, promoted=tuple(promoted), suppressed=tuple(suppressed))
            for summary, promoted, suppressed in zip(
                meter.compute(), *torch.searchsorted(tokens, ids).tolist(), strict=True
            )
        )
        for meter, ids in zip(meters, written, strict=True)
    ]
    prompts, cosines = dictionary.label_prompts, dictionary.label_cosines
    return LatentView(
        reference=itda.name,
        rows=tuple(tuple(rows.pieces(row)) for row in range(len(rows))),
        vocabulary=tuple(token_texts(data.tokenizer, tokens.tolist())),
        atoms=summaries[0],
        sources=tuple(prompts[atom] if prompts is not None else None for atom in atoms.tolist()),
        others=tuple(
            NearestLatents(entry.name, tuple(zip(direction.tolist(), cosine.tolist(), strict=True)), latents)
            for entry, (direction, cosine), latents in zip(others, nearest, summaries[1:], strict=True)
        ),
        source_cosines=None if cosines is None else tuple(cosines[atoms.to(cosines.device)].tolist()),
    )


def nearest_directions(
    rows: Float[Tensor, "m d"], directions: Float[Tensor, "n d"], signed: bool, block: int = 4096
) -> tuple[Int[Tensor, " m"], Float[Tensor, " m"]]:
    """Find the direction with the largest cosine, or ``|cosine|`` if ``signed``, of equal ones the first.

    No more than ``block * block`` cosines are held at a time. The cosine with a direction of length zero is 0.

    Returns:
        For each row the index of the direction and the cosine with its sign, on the CPU.
    """
    directions = functional.normalize(directions.detach().float(), dim=1)
    found = []
    for part in functional.normalize(rows.detach().to(directions), dim=1).split(block):
        best = []
        for start in range(0, len(directions), block):
            cosines = (part @ directions[start : start + block].T).clamp(-1, 1)
            at = (cosines.abs() if signed else cosines).max(dim=1, keepdim=True).indices
            best.append((at + start, cosines.gather(1, at)))
        index, cosine = (torch.cat(columns, dim=1) for columns in zip(*best, strict=True))
        at = (cosine.abs() if signed else cosine).max(dim=1, keepdim=True).indices
        found.append((index.gather(1, at)[:, 0].cpu(), cosine.gather(1, at)[:, 0].cpu()))
    index, cosine = (torch.cat(parts) for parts in zip(*found, strict=True))
    return index, cosine


class LatentUsageMeter:
    """Count what chosen latents of one entry, each given once, are used for.

    Memory is in proportion to their uses. With ``context_size`` a source's row and position give the index of its
    token. Of the ``top`` examples with the largest ``|activation|``, equal ones stand in the order of the tokens.

    Raises:
        InputError: bins that are not a positive even number, or a negative number of examples.
    """

    def __init__(self, entry: Entry, latents: Int[Tensor, " m"], context_size: int, top: int, bins: int) -> None:
        if bins < 2 or bins % 2:
            raise InputError(f"a histogram must have a positive even number of bins, got {bins}")
        if top < 0:
            raise InputError(f"the number of top examples must not be negative, got {top}")
        self.entry, self.latents, self.context_size, self.top, self.bins = entry, latents, context_size, top, bins
        self._index = torch.full((len(directions_of(entry)),), -1, dtype=torch.int64)
        self._index[latents] = torch.arange(len(latents))
        self._codes = CodesMeter(len(latents))

    def update(self, x: Float[Tensor, "batch d"], table: Int[Tensor, "batch 6"]) -> None:
        """Encode a batch with its sources and keep the uses. Raises ValueError for activations that are not finite."""
        self._codes.update(map(self._chosen, used_latents(self.entry, x)), table)

    def _chosen(self, used: Used) -> Used:
        index = self._index[used.latent]
        chosen = index >= 0
        return Used(used.token[chosen], index[chosen], used.activation[chosen])

    def compute(self) -> Iterator[LatentSummary]:
        """Yield the chosen latents in their order, without logit effects. Raises InputError if nothing was read."""
        codes = self._codes.compute()
        place = (codes.sources[codes.token, ROW] * self.context_size + codes.sources[codes.token, POSITION]).numpy()
        activation = codes.activation.numpy()
        columns = zip(
            self.latents.tolist(),
            codes.limits.tolist(),
            codes.histograms(self.bins // 2).tolist(),
            codes.largest(self.top).tolist(),
            strict=True,
        )
        for latent, limit, histogram, largest in columns:
            top = tuple((int(place[use]), float(activation[use])) for use in largest if use >= 0)
            yield LatentSummary(latent, sum(histogram) / codes.n_tokens, limit, tuple(histogram), top, (), ())


def _effects(unembedding: Unembedding | None, meter: LatentUsageMeter, count: int) -> Int[Tensor, "2 m tokens"]:
    """Return the ids of the tokens that latents promote and suppress, none without an unembedding."""
    if unembedding is None:
        return torch.zeros(2, len(meter.latents), 0, dtype=torch.int64)
    directions = directions_of(meter.entry)
    return unembedding.effects(directions[meter.latents.to(directions.device)], count)
