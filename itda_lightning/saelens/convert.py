"""From a dictionary to a SAELens SAE and back; ``export_directory.py`` has its files.

Two architectures compute the codes; those of ``amortised.py`` imitate them. ``itda`` is this package's own and holds
every dictionary, a signed one also as the rows [D; -D] with non-negative codes. ``matching_pursuit`` is SAELens's and
loads without this package; it is matching pursuit with non-negative coefficients. A signed dictionary D is the rows
[D; -D] there, with the same steps: the largest correlation with those is the largest |correlation| with D. An atom that
is picked with both signs has two coefficients there, whose difference is the one here.
"""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.util import dtype_to_str
from torch import Tensor

from itda_lightning.dictionary.copies import as_matching_pursuit
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_choice
from itda_lightning.pursuit import PURSUITS, PursuitName
from itda_lightning.saelens.amortised import AmortisedArchitecture, amortised_sae
from itda_lightning.saelens.architecture import ITDASAE, ITDASAEConfig
from itda_lightning.saelens.final_figures import HeldOut, final_figures
from itda_lightning.saelens.model_card import needs
from itda_lightning.saelens.sae_metadata import KEY, Provenance, dictionary_metadata, read_provenance
from itda_lightning.saelens.stored_rows import positive_half, unit_rows

Architecture = Literal["itda", "matching_pursuit"]


def to_sae(
    dictionary: Dictionary,
    architecture: Architecture | AmortisedArchitecture = "itda",
    activations: Float[Tensor, "tokens d"] | None = None,
    *,
    signed: bool = True,
    pursuit: Literal["mp"] | None = None,
    heldout: HeldOut | None = None,
) -> SAE[Any]:
    """Convert a dictionary to a SAELens SAE: with the same codes, or with a linear encoder that imitates them.

    Args:
        dictionary: copied; later changes do not reach the SAE.
        architecture: "itda" (signed codes (..., n_atoms); ``import itda_lightning`` before loading it) or
            "matching_pursuit" (loads without this package; for a signed dictionary codes are (..., 2 n_atoms), those of
            the negated atoms last; an atom that matching pursuit picks with both signs has two coefficients, whose
            difference is that of the dictionary, and counts twice in L0). "matching_pursuit" fires no
            ``hook_sae_acts_post``, and once an activation is explained up to rounding it goes on to pick atoms, with
            coefficients of the size of rounding. "jumprelu" and "topk" are ordinary SAEs that load without this
            package: the atoms are their decoder, the encoder is regressed on the dictionary's codes of ``activations``,
            in minutes. Their codes are near, not the same.
        activations: (tokens, d_in) to regress on, such as those of the fit; for "jumprelu" and "topk" only.
        signed: False for non-negative codes (..., 2 n_atoms) of a signed dictionary as "itda", of any pursuit: the rows
            are [D; -D], and codes are the positive parts of the signed ones, then the sizes of their negative parts.
            Programs that are written for SAEs count ``codes > 0`` and take ``codes.max()``. No other architecture, and
            no non-negative dictionary, has signed codes.
        pursuit: "mp" to encode by plain matching pursuit of as many steps, unpruned, with a larger error, as
            "matching_pursuit" has to; None for the dictionary's own.
        heldout: (tokens, d_in) activations, whole or in batches, on which mean L0 and dead latents are measured for
            the metadata; None for those of the fit's last validation if the SAE has the codes that it measured.

    Returns:
        The SAE, on the dictionary's device, with its sources in ``cfg.metadata.itda``; what is known of
        ``training_tokens``, ``l0`` and ``num_dead_features`` is there as SAELens's own trainer names it.

    Raises:
        InputError: an unknown architecture, no activations or too few for "jumprelu" and "topk", a pursuit other than
            "mp" or pruned codes as "matching_pursuit", an empty dictionary, metadata that JSON cannot hold.

    Example:
        >>> import torch
        >>> from itda_lightning import Dictionary, to_sae
        >>> dictionary = Dictionary(torch.eye(4), k=2)
        >>> sae = to_sae(dictionary)
        >>> sae.encode(torch.tensor([[0.0, -3.0, 1.0, 0.5]])).detach()
        tensor([[ 0., -3.,  1.,  0.]])
        >>> to_sae(dictionary, "matching_pursuit").cfg.d_sae
        8
        >>> to_sae(dictionary, signed=False).encode(torch.tensor([[0.0, -3.0, 1.0, 0.5]])).detach()
        tensor([[0., 0., 1., 0., 0., 3., 0., 0.]])
    """
    check_architecture(architecture)
    return converted(encoded_by(dictionary, pursuit), architecture, activations, signed, heldout, unfinished=None)


def encoded_by(dictionary: Dictionary, pursuit: str | None) -> Dictionary:
    """Return the dictionary, or a copy with another pursuit. Raises InputError for one other than "mp"."""
    if pursuit is None:
        return dictionary
    check_choice(("mp",), {"pursuit": pursuit})
    return as_matching_pursuit(dictionary)


def check_architecture(architecture: str) -> None:
    """Raise InputError for an architecture that ``to_sae`` does not know."""
    check_choice((*get_args(Architecture), *get_args(AmortisedArchitecture)), {"architecture": architecture})


def converted(
    dictionary: Dictionary,
    architecture: Architecture | AmortisedArchitecture,
    activations: Float[Tensor, "tokens d"] | None,
    signed: bool,
    heldout: HeldOut | None,
    unfinished: Path | None,
) -> SAE[Any]:
    """Convert as ``to_sae``, with a regression that goes on from the file ``unfinished``."""
    if dictionary.n_atoms == 0:
        raise InputError("the dictionary has no atoms yet: fit it before exporting it")
    exact = PURSUITS[dictionary.pursuit].exports_as_matching_pursuit and dictionary.least_gain == 0
    if architecture == "matching_pursuit" and not exact:
        pruned = " and pruned codes" if dictionary.least_gain > 0 else ""
        raise InputError(
            f"a dictionary with pursuit {dictionary.pursuit!r}{pruned} cannot be exported as 'matching_pursuit', "
            "which would give other coefficients: use architecture='itda', with signed=False for non-negative codes; "
            "for who has SAELens only, pursuit='mp' (--pursuit mp) encodes the same atoms with a larger error, and "
            "architecture='jumprelu' imitates the codes"
        )
    metadata = dictionary_metadata(dictionary)
    atoms = dictionary.atoms.detach()
    options: dict[str, Any] = {
        "d_in": dictionary.d_in,
        "dtype": dtype_to_str(atoms.dtype),
        "device": "meta",
        "reshape_activations": "hook_z" if str(metadata["hook_name"]).endswith("hook_z") else "none",
        "metadata": SAEMetadata(),
    }
    sae: SAE[Any]
    if architecture == "jumprelu" or architecture == "topk":
        sae = amortised_sae(dictionary, activations, architecture, options, unfinished)
    else:
        mirrored = not dictionary.nonnegative and (architecture == "matching_pursuit" or not signed)
        rows = torch.cat([atoms, -atoms]) if mirrored else atoms.clone()
        if architecture == "itda":
            options |= {name: getattr(dictionary, name) for name in ("k", "pursuit", "nonnegative", "least_gain")}
            sae = ITDASAE(ITDASAEConfig(**options, d_sae=len(rows), mirrored=mirrored))
        else:
            options |= {"max_iterations": dictionary.k, "residual_threshold": 0.0, "stop_on_duplicate_support": False}
            sae = MatchingPursuitSAE(MatchingPursuitSAEConfig(**options, d_sae=len(rows)))
        sae.load_state_dict({"W_dec": rows, "b_dec": dictionary.bias.detach().clone()}, assign=True)
    metadata |= final_figures(dictionary, sae, heldout)
    # Set last: SAELens's constructor warns of models with processed weights, which is for those who load the SAE.
    sae.cfg.metadata = SAEMetadata(**metadata, **needs(architecture))
    return sae.to(device=atoms.device)


def from_sae(sae: SAE[Any]) -> Dictionary:
    """Convert an SAE of architecture ``itda`` or ``matching_pursuit`` to a dictionary.

    A dictionary converted by ``to_sae`` comes back as it was: atoms, bias and grown atoms bit for bit, sources, labels,
    prompts, k, pursuit, metadata. A ``matching_pursuit`` SAE from elsewhere (a trained one) becomes a non-negative
    dictionary without sources. Atoms of half precision come back in float32, normalised again.

    Args:
        sae: the SAE; its rows (n_atoms, d_in) are the atoms, or [D; -D] in the export of a signed dictionary.

    Returns:
        The dictionary, on the SAE's device.

    Raises:
        InputError: another architecture; flags, normalisation or rows with which a dictionary would give other codes.

    Example:
        >>> import torch
        >>> from itda_lightning import Dictionary, from_sae, to_sae
        >>> dictionary = from_sae(to_sae(Dictionary(torch.eye(4), k=2), "matching_pursuit"))
        >>> dictionary.n_atoms, dictionary.k, dictionary.nonnegative
        (4, 2, False)
    """
    architecture = sae.cfg.architecture()
    if architecture not in get_args(Architecture):
        raise InputError(
            f"an SAE of architecture {architecture!r} is not a dictionary: give one of {get_args(Architecture)}"
        )
    if sae.cfg.normalize_activations != "none":
        raise InputError(
            f"the SAE has normalize_activations={sae.cfg.normalize_activations!r}, which a dictionary does not do: "
            "fold it first (fold_activation_norm_scaling_factor) or take an SAE of activations as they are"
        )
    known = sae.cfg.metadata
    provenance = read_provenance(known[KEY]) if KEY in known else Provenance(None, True, known.to_dict())
    rows = sae.W_dec.detach()
    pursuit: PursuitName = "mp"
    least_gain = 0.0
    if architecture == "itda":
        k, pursuit, nonnegative, least_gain = sae.cfg.k, sae.cfg.pursuit, sae.cfg.nonnegative, sae.cfg.least_gain
        rows = positive_half(rows) if sae.cfg.mirrored else rows
    else:
        k, nonnegative = _matching_pursuit_sparsity(sae), provenance.nonnegative
        rows = rows if nonnegative else positive_half(rows)
    # Without a bias at the input neither architecture adds one at the output.
    bias = sae.b_dec.detach() if sae.cfg.apply_b_dec_to_input else torch.zeros_like(sae.b_dec)
    atoms = unit_rows(rows)
    try:
        return Dictionary(
            atoms,
            bias.to(atoms.dtype),
            provenance.sources,
            k=k,
            pursuit=pursuit,
            nonnegative=nonnegative,
            least_gain=least_gain,
            metadata=provenance.metadata,
            grown=None if provenance.grown is None else provenance.grown.to(atoms),
            labels=provenance.labels,
        )
    except InputError:
        raise
    except ValueError as error:
        remedy = "; or call sae.fold_W_dec_norm() first" if architecture == "itda" else ""
        raise InputError(f"the SAE of architecture {architecture!r} is not a dictionary: {error}{remedy}") from error


def _matching_pursuit_sparsity(sae: MatchingPursuitSAE) -> int:
    cfg = sae.cfg
    if cfg.residual_threshold > 0 or cfg.stop_on_duplicate_support:
        raise InputError(
            f"the matching_pursuit SAE stops early (residual_threshold={cfg.residual_threshold}, "
            f"stop_on_duplicate_support={cfg.stop_on_duplicate_support}), which a dictionary does not: set "
            "sae.cfg.residual_threshold = 0 and sae.cfg.stop_on_duplicate_support = False to accept other codes"
        )
    return cfg.d_in if cfg.max_iterations is None else cfg.max_iterations
