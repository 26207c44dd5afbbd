"""Dictionaries of real activations (ITDA) for reading language models, beside SAEs in SAELens.

``fit`` and ``fit_activations`` make a ``Dictionary``, ``load_dictionary`` loads one; ``help`` of these, of ``steer``
and of ``Dictionary`` tells what can be done with it. Names are imported at their first use, so that importing this
takes no time; SAELens, whenever it is imported, learns the architecture ``itda``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from itda_lightning.machine.after_import import call_after_import
from itda_lightning.machine.first_imports import explain_imports
from itda_lightning.machine.late_work import WORK

if TYPE_CHECKING:
    from itda_lightning.across_models.aligned_arrays import aligned_activations
    from itda_lightning.activations.datamodule import ActivationsDataModule
    from itda_lightning.dictionary.dictionary import Dictionary
    from itda_lightning.dictionary.sharded_dictionary import ShardedDictionary
    from itda_lightning.dictionary.sources import Prompt, Source, Sources
    from itda_lightning.errors import InputError
    from itda_lightning.evaluation.reading import load_model
    from itda_lightning.evaluation.steered_texts import steered_text
    from itda_lightning.evaluation.steering import SteeringModule, ablate
    from itda_lightning.fitting.from_python import CallableModule, fit_activations
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

    fit: CallableModule
    steer: SteeringModule

# Module -> the public names in it; that of a command is called like the function of its name.
_HOMES = {
    "across_models.aligned_arrays": "aligned_activations",
    "activations.datamodule": "ActivationsDataModule",
    "dictionary.dictionary": "Dictionary",
    "dictionary.sharded_dictionary": "ShardedDictionary",
    "dictionary.sources": "Prompt Source Sources",
    "errors": "InputError",
    "evaluation.reading": "load_model",
    "evaluation.steered_texts": "steered_text",
    "evaluation.steering": "ablate",
    "fit": "fit",
    "fitting.from_python": "fit_activations",
    "fitting.loading": "load_dictionary",
    "fitting.module": "ITDA",
    "fitting.strategy": "Replicated",
    "measures": "cka jaccard relative_similarity svcca",
    "pursuit": "SparseCode generalised_orthogonal_matching_pursuit matching_pursuit orthogonal_matching_pursuit prune",
    "saelens": "from_sae to_sae",
    "steer": "steer",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}

explain_imports()
call_after_import("sae_lens", lambda: import_module("itda_lightning.saelens.architecture"))
WORK.update(
    decompose="itda_lightning.evaluation.reading.decompose_by_model",
    top_contexts="itda_lightning.evaluation.reading.top_contexts",
    typical_coefficient="itda_lightning.evaluation.typical_uses.typical_coefficient",
    push_to_hub="itda_lightning.evaluation.publishing.push_to_hub",
)


def __getattr__(name: str) -> Any:
    """Import the module of a public name, and return what it names."""
    if name not in _HOME:
        raise AttributeError(f"module 'itda_lightning' has no attribute {name!r}")
    module = import_module(f"itda_lightning.{_HOME[name]}")
    found = module if name in ("fit", "steer") else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


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
