"""SAELens's format: the architecture ``itda``, export and import. Importing this registers the architecture."""

from itda_lightning.saelens.architecture import ITDASAE, ITDASAEConfig
from itda_lightning.saelens.convert import Architecture, from_sae, to_sae
from itda_lightning.saelens.export_directory import load_export, save_export
from itda_lightning.saelens.final_figures import HeldOut
from itda_lightning.saelens.model_card import upload

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
