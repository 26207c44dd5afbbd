"""Atoms that encode, detect and decode activations of any leading shape."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.atoms_with_model import AtomsWithModel
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_wanted_l0
from itda_lightning.pursuit import (
    PreparedAtoms,
    Pruned,
    PursuitName,
    SparseCode,
    check_finite,
    combine,
    correlate,
    encode_in_parts,
    gain_for_l0,
)

# Activations (..., d): one row, a batch, rows of a batch of texts; tensors, or arrays of numpy or what becomes one.
Activations = Tensor | np.ndarray | list[Any]


class EncodingAtoms(AtomsWithModel):
    """Atoms with a bias and a pursuit.

    Activations may be tensors, numpy arrays or lists of shape (..., d); results have the same leading shape.
    """

    bias: Tensor
    k: int
    pursuit: PursuitName
    nonnegative: bool
    least_gain: float

    @property
    @abstractmethod
    def atoms(self) -> Float[Tensor, "n d"]:
        """The unit-norm atoms."""

    @abstractmethod
    def prepared(self) -> PreparedAtoms:
        """Return the atoms prepared for pursuits."""

    def encode(self, x: Activations, error_threshold: float | None = None) -> SparseCode:
        """Compute sparse codes by this dictionary's pursuit, pruned by ``least_gain``, in at least single precision.

        Args:
            x: (..., d) activations of any floating dtype; encoded in parts, so there may be many.
            error_threshold: stop once the unexplained share of an activation's ``|x - bias|^2`` is at most this.

        Returns:
            The code: support and coefficients (..., k), residual_energy (...).

        Raises:
            ValueError: x of another width or with non-finite rows.

        Example:
            >>> import numpy as np
            >>> import torch
            >>> import itda_lightning as il
            >>> dictionary = il.Dictionary(torch.eye(4), k=2)
            >>> dictionary.encode(np.array([3.0, 0.0, 2.0, 1.0])).support  # one row
            tensor([0, 2])
            >>> dictionary.encode(torch.ones(5, 7, 4)).coefficients.shape
            torch.Size([5, 7, 2])
        """
        rows, leading = self._rows(x)
        code = SparseCode.concatenate(pruned.code for pruned in self._codes(rows, self.least_gain, error_threshold))
        return code if len(leading) == 1 else code.reshape(*leading)

    def calibrate_l0(self, x: Float[Tensor, "batch d"], l0: float) -> float:
        """Set ``least_gain`` such that codes have ``l0`` atoms on average over these activations; return it.

        If they have fewer atoms without pruning, nothing is pruned. Raises InputError for an ``l0`` that is not above 0
        and at most k, or no activations.
        """
        check_wanted_l0("the wanted mean L0", l0, self.k)
        if len(x) == 0:
            raise InputError("the mean L0 is measured on activations, got none: give some held-out ones")
        bears = torch.cat([pruned.bears for pruned in self._codes(self._rows(x)[0], torch.inf, None)])
        self.least_gain = 0.0 if (bears > 0).sum() <= l0 * len(x) else gain_for_l0(bears, l0)
        return self.least_gain

    def _codes(self, x: Float[Tensor, "batch d"], least_gain: float, error_threshold: float | None) -> Iterator[Pruned]:
        options = self.pursuit, self.k, self.nonnegative, least_gain, error_threshold
        return encode_in_parts(x, self.centre, self.prepared(), *options)

    def detect(self, x: Activations) -> Float[Tensor, "*leading n"]:
        """Tell how strongly the meaning of each atom is there: the cosine of ``x - bias`` with it; 0 if x is the bias.

        ``encode`` explains x (..., d) by few atoms together: of several that are alike it takes one. This looks at
        each atom alone (``benchmarks/quality/detection.py`` compares them). Raises as ``encode``.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> il.Dictionary(torch.eye(4)[:3], k=2).detect([3.0, 0.0, 4.0, 0.0])
            tensor([0.6000, 0.0000, 0.8000])
        """
        rows, leading = self._rows(x)
        centred = torch.nn.functional.normalize(self.centre(rows), dim=1)
        return correlate(centred, self.atoms).clamp(-1, 1).reshape(*leading, len(self.atoms))

    def novelty(self, x: Activations) -> Float[Tensor, " *leading"]:
        """Tell how little of x (..., d) the atoms explain: the share of ``|x - bias|^2`` left; 0 if x is the bias.

        Large for text unlike that of the fit; the mean over some tokens of a text tells more than one token
        (``benchmarks/quality/novelty.py``). Raises as ``encode``.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> il.Dictionary(torch.eye(4)[:3], k=2).novelty([[0.0, 5.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
            tensor([0., 1.])
        """
        rows, leading = self._rows(x)
        left = self.encode(rows).residual_energy
        energy = torch.linalg.vector_norm(self.centre(rows), dim=1).square().to(left.dtype)
        return torch.where(energy > 0, left / energy, 0.0).reshape(leading)

    def centre(self, x: Float[Tensor, "*leading d"]) -> Float[Tensor, "*leading d"]:
        """Return ``x - bias`` in at least single precision, which the pursuit encodes."""
        return x.to(torch.promote_types(x.dtype, torch.float32)) - self.bias

    def decode(self, code: SparseCode) -> Float[Tensor, "*leading d"]:
        """Return the reconstruction ``coefficients @ atoms[support] + bias``, (..., d)."""
        rows = self.atoms if self.atoms.dtype == torch.bfloat16 else self.atoms.to(code.coefficients.dtype)
        leading = code.residual_energy.shape
        flat = code if len(leading) == 1 else code.reshape(leading.numel())
        return (combine(flat.support, flat.coefficients, rows) + self.bias).reshape(*leading, rows.shape[1])

    def forward(self, x: Activations) -> Float[Tensor, "*leading d"]:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))

    def _rows(self, x: Activations) -> tuple[Float[Tensor, "rows d"], torch.Size]:
        """Return activations as finite rows, an array's on the device of the atoms, and their leading shape."""
        x = as_tensor(x, self.bias.device)
        if x.ndim == 0 or x.shape[-1] != len(self.bias):
            raise ValueError(f"x must have shape (..., {len(self.bias)}), got {tuple(x.shape)}")
        rows = x if x.ndim == 2 else x.reshape(-1, len(self.bias))
        check_finite(rows)
        return rows, x.shape[:-1]


def as_tensor(x: Activations, device: torch.device) -> Tensor:
    """Return a tensor as it is, an array or list on the device. Raises InputError for what holds no numbers."""
    if isinstance(x, Tensor):
        return x
    try:
        array = np.asarray(x)
        # Torch takes no reversed or byte-swapped arrays, and warns of those that may not be written to.
        numbers = np.array(array, dtype=array.dtype if array.dtype in (np.float16, np.float64) else np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(f"x must hold numbers of shape (..., d), got {type(x).__name__} ({error})") from error
    return torch.from_numpy(numbers).to(device)
