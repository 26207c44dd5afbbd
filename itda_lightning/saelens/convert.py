"""From a dictionary to a SAELens SAE and back, in either of two architectures.

``itda`` is this package's own and holds every dictionary. ``matching_pursuit`` is SAELens's own, so it loads where this
package is not installed; it is matching pursuit with non-negative coefficients. A signed dictionary D is exactly the
rows [D; -D] there: the largest correlation with those is the largest |correlation| with D.
"""

from copy import deepcopy
from typing import Any, Literal, get_args

import torch
from sae_lens import SAE
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.sae import SAEMetadata
from sae_lens.util import dtype_to_str
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_choice
from itda_lightning.pursuit import PursuitName
from itda_lightning.saelens.architecture import ITDASAE, ITDASAEConfig
from itda_lightning.saelens.provenance import KEY, Provenance, as_json, read_provenance
from itda_lightning.saelens.stored_rows import unit_rows

Architecture = Literal["itda", "matching_pursuit"]

# What SAELens's tools read from the metadata, where the dictionary's own says nothing. They fail on a `prepend_bos`,
# `context_size` or `model_from_pretrained_kwargs` of None; the values are SAELens's own defaults.
EXPECTED_METADATA: dict[str, Any] = {
    "model_name": None,
    "model_class_name": "HookedTransformer",
    "hook_name": None,
    "hook_head_index": None,
    "context_size": 128,
    "prepend_bos": True,
    "seqpos_slice": [None],
    "model_from_pretrained_kwargs": {},
    "exclude_special_tokens": None,
    "dataset_path": None,
    "neuronpedia_id": None,
}


def to_sae(dictionary: Dictionary, architecture: Architecture = "itda") -> SAE[Any]:
    """A SAELens SAE with the dictionary's codes and reconstructions, its sources in ``cfg.metadata.itda``.

    Args:
        dictionary: copied; later changes do not reach the SAE.
        architecture: "itda" (codes (..., n), signed; register it with ``import itda_lightning.saelens`` before loading)
            or "matching_pursuit" (nothing of this package needed to load it; codes (..., 2 n), those of the negative
            atoms last, for a signed dictionary). "matching_pursuit" fires no ``hook_sae_acts_post``, and where an
            activation is explained to rounding it goes on to pick atoms with coefficients of the size of rounding.

    Raises:
        InputError: an unknown architecture, orthogonal matching pursuit as "matching_pursuit", an empty dictionary,
            metadata that JSON cannot hold.
    """
    check_choice(get_args(Architecture), {"architecture": architecture})
    if dictionary.n_atoms == 0:
        raise InputError("the dictionary has no atoms yet: fit it before exporting it")
    if architecture == "matching_pursuit" and dictionary.pursuit != "mp":
        raise InputError(
            f"a dictionary with pursuit {dictionary.pursuit!r} cannot be exported as 'matching_pursuit', "
            "which would give other coefficients: use architecture='itda'"
        )
    metadata = _metadata(dictionary)
    atoms = dictionary.atoms.detach()
    common: dict[str, Any] = {
        "d_in": dictionary.d_in,
        "dtype": dtype_to_str(atoms.dtype),
        "device": "meta",
        "reshape_activations": "hook_z" if str(metadata["hook_name"]).endswith("hook_z") else "none",
        "metadata": SAEMetadata(**metadata),
    }
    sae: SAE[Any]
    if architecture == "itda":
        sae = ITDASAE(
            ITDASAEConfig(
                **common,
                d_sae=len(atoms),
                k=dictionary.k,
                pursuit=dictionary.pursuit,
                nonnegative=dictionary.nonnegative,
            )
        )
    else:
        atoms = atoms if dictionary.nonnegative else torch.cat([atoms, -atoms])
        sae = MatchingPursuitSAE(
            MatchingPursuitSAEConfig(
                **common,
                d_sae=len(atoms),
                max_iterations=dictionary.k,
                residual_threshold=0.0,
                stop_on_duplicate_support=False,
            )
        )
    weights = {"W_dec": atoms.clone(), "b_dec": dictionary.bias.detach().clone()}
    sae.load_state_dict(weights, assign=True)
    return sae.to(device=atoms.device)


def from_sae(sae: SAE[Any]) -> Dictionary:
    """The dictionary of an SAE of architecture ``itda`` or ``matching_pursuit``, on the SAE's device.

    What ``to_sae`` made comes back as it was: atoms, bias and grown atoms bit for bit, sources, prompts, k, pursuit, metadata. A
    ``matching_pursuit`` SAE from elsewhere (a trained one) becomes a non-negative dictionary without sources. Atoms of
    half precision come back in float32, normalised again.

    Raises:
        InputError: another architecture; flags, normalisation or rows with which a dictionary would give other codes.
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
    provenance = _provenance(sae)
    rows = sae.W_dec.detach()
    pursuit: PursuitName = "mp"
    if architecture == "itda":
        k, pursuit, nonnegative = sae.cfg.k, sae.cfg.pursuit, sae.cfg.nonnegative
    else:
        k, nonnegative = _matching_pursuit_sparsity(sae), provenance.nonnegative
        rows = rows if nonnegative else _positive_half(rows)
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
            metadata=provenance.metadata,
            grown=None if provenance.grown is None else provenance.grown.to(atoms),
        )
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the SAE of architecture {architecture!r} is not a dictionary: {error}") from error


def _metadata(dictionary: Dictionary) -> dict[str, Any]:
    content = as_json(dictionary)
    known = {key: value for key, value in content["metadata"].items() if key in EXPECTED_METADATA and value is not None}
    return deepcopy(EXPECTED_METADATA) | known | {KEY: content}


def _provenance(sae: SAE[Any]) -> Provenance:
    if KEY in sae.cfg.metadata:
        return read_provenance(sae.cfg.metadata[KEY])
    return Provenance(None, True, sae.cfg.metadata.to_dict())


def _matching_pursuit_sparsity(sae: MatchingPursuitSAE) -> int:
    cfg = sae.cfg
    if cfg.residual_threshold > 0 or cfg.stop_on_duplicate_support:
        raise InputError(
            f"the matching_pursuit SAE stops early (residual_threshold={cfg.residual_threshold}, "
            f"stop_on_duplicate_support={cfg.stop_on_duplicate_support}), which a dictionary does not: set "
            "sae.cfg.residual_threshold = 0 and sae.cfg.stop_on_duplicate_support = False to accept other codes"
        )
    return cfg.d_in if cfg.max_iterations is None else cfg.max_iterations


def _positive_half(rows: Tensor) -> Tensor:
    n = len(rows) // 2
    if len(rows) % 2 or not torch.equal(rows[n:], -rows[:n]):
        raise InputError(
            f"the {len(rows)} rows of the matching_pursuit SAE are not [D; -D] of a signed dictionary: "
            "they were changed after the export; export the dictionary again"
        )
    return rows[:n]
