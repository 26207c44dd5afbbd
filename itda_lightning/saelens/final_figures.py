"""Final figures of an export under SAELens's names: mean L0 and dead latents on held-out activations.

SAELens's trainer writes them as ``l0`` and ``num_dead_features`` into an SAE's metadata, and its runner names the
activations of the training ``training_tokens``. What is not known is left out.
"""

from collections.abc import Iterable
from typing import Any, TypeAlias

import torch
from jaxtyping import Bool
from sae_lens import SAE
from torch import Tensor

from itda_lightning.dictionary.dictionary import REFINEMENT, Dictionary
from itda_lightning.dictionary.facts import codes_of
from itda_lightning.pursuit import SparseCode

HeldOut: TypeAlias = Tensor | Iterable[Tensor]
ROWS = 1024  # activations whose latents are counted together
L0, DEAD, READ = "l0", "num_dead_features", "training_tokens"
EXACT = ("itda", "matching_pursuit")  # architectures with the codes of the dictionary itself


def final_figures(dictionary: Dictionary, sae: SAE[Any], heldout: HeldOut | None) -> dict[str, float | int]:
    """Return the figures of an SAE made from a dictionary, as far as they are known.

    Args:
        dictionary: it encodes as the SAE does, unless that is an amortised one.
        sae: as ``to_sae`` makes it.
        heldout: (tokens, d_in) activations to measure on, whole or in batches; None for the figures of the fit's last
            validation, if it was of these very atoms and codes.
    """
    seen = dictionary.metadata.get("activations_seen")
    read: dict[str, float | int] = {READ: seen} if isinstance(seen, int) and seen > 0 else {}
    if heldout is not None:
        return read | _measured(dictionary, sae, [heldout] if isinstance(heldout, Tensor) else heldout)
    same_codes = sae.cfg.architecture() in EXACT and sae.cfg.d_sae == dictionary.n_atoms
    return read | (_recorded(dictionary) if same_codes else {})


def _recorded(dictionary: Dictionary) -> dict[str, float | int]:
    """Return the figures of the last validation of a fit, if nothing that they depend on changed since."""
    facts = dictionary.metadata
    refinement, validations = facts.get(REFINEMENT), facts.get("validation") or [{}]
    last = validations[-1] if refinement is None else refinement.get("validation")
    if not isinstance(last, dict) or facts.get("codes") != codes_of(dictionary):
        return {}
    l0, dead = last.get("l0"), last.get("dead_atoms")
    if last.get("n_atoms") != dictionary.n_atoms or not isinstance(l0, (int, float)) or not isinstance(dead, int):
        return {}
    return {L0: float(l0), DEAD: dead}


@torch.no_grad()
def _measured(dictionary: Dictionary, sae: SAE[Any], batches: Iterable[Tensor]) -> dict[str, float | int]:
    """Count the latents that fire. A pursuit is the dictionary's own, which is the faster one."""
    architecture, mirrored = sae.cfg.architecture(), sae.cfg.d_sae == 2 * dictionary.n_atoms
    fired = torch.zeros(sae.cfg.d_sae, dtype=torch.bool, device=dictionary.bias.device)
    uses = tokens = 0
    for batch in batches:
        for x in batch.to(fired.device).split(ROWS):
            if architecture in EXACT:
                # There a pick of an atom with either sign is a latent of its own.
                code = dictionary.encode(x) if architecture == "matching_pursuit" else dictionary.encode(x).distinct()
                fires = _fires(code, len(fired), mirrored)
            else:
                fires = sae.encode(x.to(sae.dtype)) != 0
            fired |= fires.any(0)
            uses += int(fires.sum())
            tokens += len(x)
    return {L0: uses / tokens, DEAD: int((~fired).sum())} if tokens else {}


def _fires(code: SparseCode, n_latents: int, mirrored: bool) -> Bool[Tensor, "batch latents"]:
    """Return which latents fire: those of negative coefficients are the second half, if there are two per atom."""
    n_atoms = n_latents // 2 if mirrored else n_latents
    latent = code.support + n_atoms * (code.coefficients < 0) * int(mirrored)
    used = (code.support >= 0) & (code.coefficients != 0)
    # Unused entries are sent to a column of their own.
    fires = used.new_zeros(len(used), n_latents + 1)
    return fires.scatter_(1, torch.where(used, latent, n_latents), True)[:, :-1]
