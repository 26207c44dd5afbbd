"""SAELens's format: the architecture ``itda``, export and import; names are imported at their first use.

SAELens learns the architecture when both packages have been imported, in either order.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itda_lightning.saelens.architecture import ITDASAE, ITDASAEConfig
    from itda_lightning.saelens.convert import Architecture, from_sae, to_sae
    from itda_lightning.saelens.export_directory import load_export, save_export
    from itda_lightning.saelens.final_figures import HeldOut
    from itda_lightning.saelens.model_card import upload

_HOMES = {
    "architecture": "ITDASAE ITDASAEConfig",
    "convert": "Architecture from_sae to_sae",
    "export_directory": "load_export save_export",
    "final_figures": "HeldOut",
    "model_card": "upload",
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(f"itda_lightning.saelens.{module}"), name)
    raise AttributeError(f"module 'itda_lightning.saelens' has no attribute {name!r}")


__all__ = [
    "ITDASAE",
    "Architecture",
    "HeldOut",
    "ITDASAEConfig",
    "from_sae",
    "load_export",
    "save_export",
    "to_sae",
    "upload",
]
