"""Atoms of one ITDA beside the nearest latents of other entries, each with its uses and its logit effects."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.comparison.latent_usage import LatentUsageMeter
from itda_lightning.comparison.nearest import Nearest, nearest_directions
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.logit_effects import LogitEffects, Unembedding
from itda_lightning.evaluation.token_text import token_texts
from itda_lightning.evaluation.used_latents import directions_of
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
        language_model: for logit effects (see ``Unembedding``), which are left empty if this is None or if the model or
            the hook point has no unembedding.
        max_atoms: largest number of atoms shown, evenly chosen by index, which is their order of growth.
        top: number of tokens with the largest ``|activation|`` shown per latent.
        bins: bins per histogram, an even number.
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
    atoms = _evenly(dictionary.n_atoms, max_atoms)
    rows = data.rows("heldout")

    nearest = [_nearest(dictionary, atoms, other) for other in others]
    chosen = [atoms, *(near.direction.unique() for near in nearest)]
    meters = [
        LatentUsageMeter(entry, latents, rows.context_size, top, bins)
        for entry, latents in zip(entries, chosen, strict=True)
    ]
    description = "Latents on held-out activations"
    for x, table in data.heldout_batches(hook_name, d_in=dictionary.d_in, description=description):
        for meter in meters:
            meter.update(x, table)

    unembedding = Unembedding.of(language_model, hook_name) if language_model is not None else None
    written = [
        unembedding.effects(directions_of(entry)[latents.to(directions_of(entry).device)], effects)
        if unembedding is not None
        else None
        for entry, latents in zip(entries, chosen, strict=True)
    ]
    tokens = _tokens(written)
    summaries = [_summaries(meter, effect, tokens) for meter, effect in zip(meters, written, strict=True)]
    prompts, cosines = dictionary.prompts, dictionary.cosines
    return LatentView(
        reference=itda.name,
        rows=tuple(tuple(rows.pieces(row)) for row in range(len(rows))),
        vocabulary=tuple(token_texts(data.tokenizer, tokens.tolist())),
        atoms=summaries[0],
        sources=tuple(prompts[atom] if prompts is not None else None for atom in atoms.tolist()),
        others=tuple(
            NearestLatents(entry.name, tuple(zip(near.direction.tolist(), near.cosine.tolist(), strict=True)), latents)
            for entry, near, latents in zip(others, nearest, summaries[1:], strict=True)
        ),
        source_cosines=None if cosines is None else tuple(cosines[atoms.to(cosines.device)].tolist()),
    )


def _evenly(n: int, most: int) -> Int[Tensor, " m"]:
    """Return at most ``most`` of n indices, evenly spread from the first on."""
    m = min(n, most)
    return torch.arange(m) * n // max(m, 1)


def _nearest(dictionary: Dictionary, atoms: Int[Tensor, " m"], other: Entry) -> Nearest:
    signed = not dictionary.nonnegative or (other.dictionary is not None and not other.dictionary.nonnegative)
    rows = dictionary.atoms[atoms.to(dictionary.atoms.device)]
    return nearest_directions(rows, directions_of(other), signed)


def _tokens(written: Sequence[LogitEffects | None]) -> Int[Tensor, " tokens"]:
    """Return the ids of the tokens that any latent promotes or suppresses, sorted."""
    ids = [part.flatten() for effect in written if effect for part in (effect.promoted, effect.suppressed)]
    return torch.cat(ids).unique() if ids else torch.zeros(0, dtype=torch.int64)


def _summaries(
    meter: LatentUsageMeter, effect: LogitEffects | None, tokens: Int[Tensor, " tokens"]
) -> tuple[LatentSummary, ...]:
    none = torch.zeros(len(meter.latents), 0, dtype=torch.int64)
    promoted, suppressed = (
        torch.searchsorted(tokens, ids).tolist()
        for ids in ((effect.promoted, effect.suppressed) if effect else (none, none))
    )
    return tuple(
        LatentSummary(*use, promoted=tuple(up), suppressed=tuple(down))
        for use, up, down in zip(meter.compute(), promoted, suppressed, strict=True)
    )
