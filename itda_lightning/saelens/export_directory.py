"""The directory of an export, ``cfg.json``, ``sae_weights.safetensors`` and README.md: written whole, read whole."""

import json
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.constants import SAE_CFG_FILENAME, SAE_WEIGHTS_FILENAME
from safetensors import SafetensorError
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.atomic_files import new_directory
from itda_lightning.saelens.amortised import AmortisedArchitecture
from itda_lightning.saelens.convert import Architecture, check_architecture, converted, encoded_by, from_sae
from itda_lightning.saelens.export_files import check_sae_files, write_sae
from itda_lightning.saelens.final_figures import HeldOut
from itda_lightning.saelens.model_card import model_card

DtypeName = Literal["float32", "bfloat16", "float16"]


def save_export(
    dictionary: Dictionary,
    path: str | Path,
    architecture: Architecture | AmortisedArchitecture = "itda",
    dtype: DtypeName = "float32",
    activations: Float[Tensor, "tokens d"] | None = None,
    *,
    signed: bool = True,
    pursuit: Literal["mp"] | None = None,
    heldout: HeldOut | None = None,
) -> SAE[Any]:
    """Write a dictionary to a new directory that ``SAE.load_from_disk`` reads, in one step, and return the SAE.

    Its README.md says how to load it. A regression that was killed goes on where it was, from
    ``PATH.encoder.safetensors``, which is removed at the end.

    Raises InputError for a path that exists or cannot be written, a bias that overflows ``dtype``, or as ``to_sae``.
    """
    check_architecture(architecture)
    dictionary, path = encoded_by(dictionary, pursuit), Path(path)
    unfinished = path.with_name(f"{path.name}.encoder.safetensors")
    with new_directory(path) as directory:  # which refuses one that exists, before minutes of regression
        sae = converted(dictionary, architecture, activations, signed, heldout, unfinished)
        sae = sae.to(dtype=getattr(torch, dtype))
        if not torch.isfinite(sae.b_dec).all():
            raise InputError(f"the bias of the dictionary overflows {dtype}: use float32 or bfloat16")
        write_sae(sae, directory)
        card = model_card({path.name: sae.cfg.to_dict()}, f'SAE.load_from_disk("{path.name}")')
        (directory / "README.md").write_text(card, encoding="utf-8")
    unfinished.unlink(missing_ok=True)
    return sae


def load_export(path: str | Path, device: str | torch.device = "cpu") -> Dictionary:
    """Load a dictionary from the directory of an SAE of either architecture, comparing the digest if it has one.

    Raises InputError for any other files, and for damaged ones.
    """
    path = Path(path)
    try:
        architecture = json.loads((path / SAE_CFG_FILENAME).read_text(encoding="utf-8"))["architecture"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path / SAE_CFG_FILENAME} is not the configuration of a SAELens SAE ({type(error).__name__}: {error}): "
            "export the dictionary again"
        ) from error
    if architecture not in get_args(Architecture):
        raise InputError(
            f"{path} holds an SAE of architecture {architecture!r}, which is not a dictionary: give an export of "
            f"architecture {' or '.join(get_args(Architecture))}"
        )
    try:
        (path / SAE_WEIGHTS_FILENAME).open("rb").close()  # safetensors calls a file missing that this user may not read
        with warnings.catch_warnings():  # of processed weights: this package loads models as they are
            warnings.filterwarnings("ignore", r"\s*This SAE has non-empty model_from_pretrained_kwargs")
            sae = SAE.load_from_disk(path, device=str(device))
        check_sae_files(path)
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise InputError(
            f"{path} does not hold a complete SAE ({SAE_CFG_FILENAME} and {SAE_WEIGHTS_FILENAME}): "
            f"{type(error).__name__}: {' '.join(str(error).split())}; export the dictionary again"
        ) from error
    return from_sae(sae)
