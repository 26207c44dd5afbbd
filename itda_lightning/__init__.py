"""Dictionaries of real activations (ITDA) for reading language models, beside SAEs in SAELens.

Importing this registers the SAELens architecture ``itda``.
"""

import sys
from pathlib import Path

# ``itda`` and ``python -m itda_lightning`` alone print a list of commands and need not wait seconds for torch.
_LISTS_COMMANDS = sys.orig_argv[1:] == ["-m", "itda_lightning"] or [Path(part).stem for part in sys.argv] == ["itda"]

if not _LISTS_COMMANDS:
    from itda_lightning.activations.datamodule import ActivationsDataModule
    from itda_lightning.dictionary.dictionary import Dictionary
    from itda_lightning.dictionary.sharded_dictionary import ShardedDictionary
    from itda_lightning.dictionary.sources import Prompt, Source, Sources
    from itda_lightning.errors import InputError
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
    "cka",
    "fit_activations",
    "from_sae",
    "generalised_orthogonal_matching_pursuit",
    "jaccard",
    "load_dictionary",
    "matching_pursuit",
    "orthogonal_matching_pursuit",
    "prune",
    "relative_similarity",
    "svcca",
    "to_sae",
]
