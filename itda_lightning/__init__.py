"""Dictionaries of real activations (ITDA) for reading language models, beside SAEs in SAELens.

Importing this registers the SAELens architecture ``itda``. ``fit`` and ``fit_activations`` make a ``Dictionary``,
``load_dictionary`` loads one; ``help`` of these, of ``steer`` and of ``Dictionary`` tells what can be done with it.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from itda_lightning.machine.first_imports import explain_imports, program

if TYPE_CHECKING:
    from itda_lightning.evaluation.steering import SteeringModule
    from itda_lightning.fitting.from_python import CallableModule

    fit: CallableModule
    steer: SteeringModule

# These need not wait ten seconds for torch, SAELens and TransformerLens: the list of commands, and `itda doctor`.
_WITHOUT_THEM = ("", "-h", "--help", "doctor")


def _imports_nothing() -> bool:
    """Return True if this process is ``itda`` or ``python -m itda_lightning`` with one of those arguments, or none."""
    module, first = program(), sys.argv[1] if len(sys.argv) > 1 else ""
    return module == "itda_lightning.doctor" or (module in ("itda", "itda_lightning") and first in _WITHOUT_THEM)


explain_imports()
if not _imports_nothing():
    from itda_lightning.across_models.aligned_arrays import aligned_activations
    from itda_lightning.activations.datamodule import ActivationsDataModule
    from itda_lightning.dictionary.dictionary import Dictionary
    from itda_lightning.dictionary.sharded_dictionary import ShardedDictionary
    from itda_lightning.dictionary.sources import Prompt, Source, Sources
    from itda_lightning.errors import InputError
    from itda_lightning.evaluation.publishing import push_to_hub as _  # noqa: F401  does the work of a method
    from itda_lightning.evaluation.reading import load_model
    from itda_lightning.evaluation.steered_texts import steered_text
    from itda_lightning.evaluation.steering import ablate
    from itda_lightning.fitting.from_python import fit_activations
    from itda_lightning.fitting.loading import load_dictionary
    from itda_lightning.fitting.module import ITDA
    from itda_lightning.fitting.strategy import Replicated
    from itda_lightning.measures import cka, jaccard, relative_similarity, svcca
    from itda_lightning.pursuit import (
        SparseCode,
        generalised_orthogonal_matching_pursuit,
        matching_pursuit,
        orthogonal_matching_pursuit,
        prune,
    )
    from itda_lightning.saelens import from_sae, to_sae


def __getattr__(name: str) -> Any:
    """Return ``fit`` or ``steer``: the module of the command, which is called like the function of that name."""
    if name in ("fit", "steer"):
        return import_module(f"itda_lightning.{name}")
    raise AttributeError(f"module 'itda_lightning' has no attribute {name!r}")


__all__ = [
    "ITDA",
    "ActivationsDataModule",
    "Dictionary",
    "InputError",
    "Prompt",
    "Replicated",
    "ShardedDictionary",
    "Source",
    "Sources",
    "SparseCode",
    "ablate",
    "aligned_activations",
    "cka",
    "fit",
    "fit_activations",
    "from_sae",
    "generalised_orthogonal_matching_pursuit",
    "jaccard",
    "load_dictionary",
    "load_model",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "prune",
    "relative_similarity",
    "steer",
    "steered_text",
    "svcca",
    "to_sae",
]
