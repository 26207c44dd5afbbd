"""A saved dictionary split over the processes of a run, for dictionaries that no single device holds."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda_lightning.dictionary.dictionary_files import read_dictionary
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import add_up, rank, shares
from itda_lightning.pursuit import PURSUITS, PursuitName, ShardedAtoms, SparseCode


class ShardedDictionary(nn.Module):
    """A dictionary of which each process holds a range of the atoms; all processes encode together.

    Start the processes with ``torchrun`` and join them by ``torch.distributed.init_process_group`` (gloo on CPUs, nccl
    on GPUs). All of them call the same methods with the same activations and get the same codes, in which atoms have
    the same indices as in a single process.

    Args:
        path: a directory written by ``Dictionary.save``. Each process reads only its own atoms.
        device: where they go.
        memory_budget: bytes that this process may use beyond its atoms, None for half of the machine's memory.

    Attributes:
        atoms: this process's atoms, prepared; ``atoms.first`` is the index of the first one.
        bias: (d,) subtracted before encoding and added after decoding.
        sources: those of all atoms; None for a dictionary without sources.

    Raises:
        InputError: files that ``Dictionary.load`` refuses, too, or a dictionary whose pursuit processes cannot share.
        ValueError: fewer atoms than processes, or atoms that are not unit rows.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> il.Dictionary(torch.eye(4), k=2).save("saved")
        >>> sharded = il.ShardedDictionary("saved")  # in a single process: all atoms
        >>> sharded(torch.tensor([[3.0, 0.0, 2.0, 1.0]]))
        tensor([[3., 0., 2., 0.]])
    """

    bias: Tensor

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", memory_budget: int | None = None) -> None:
        super().__init__()
        saved = read_dictionary(Path(path), device, atoms=lambda n: shares(n)[rank()])
        self.k, self.nonnegative, self.sources = saved["k"], saved["nonnegative"], saved["sources"]
        self.least_gain: float = saved["least_gain"]
        self.pursuit: PursuitName = saved["pursuit"]
        if not PURSUITS[self.pursuit].shared_by_processes:
            raise InputError(
                f"the dictionary in {path} encodes by {self.pursuit}, which processes do not share: use il.Dictionary"
            )
        self.atoms = ShardedAtoms(saved["atoms"], memory_budget)
        self.register_buffer("bias", saved["bias"])

    def encode(self, x: Float[Tensor, "batch d"], error_threshold: float | None = None) -> SparseCode:
        """Compute sparse codes as ``Dictionary.encode`` does; raises like it."""
        centred = x.to(torch.promote_types(x.dtype, torch.float32)) - self.bias
        code = self.atoms.pursue(self.pursuit, centred, self.k, self.nonnegative, error_threshold)
        return code if self.least_gain == 0 else self.atoms.prune(code, centred, self.least_gain, self.nonnegative)

    def decode(self, code: SparseCode) -> Float[Tensor, "batch d"]:
        """Return the reconstruction: the sum of what the atoms of all processes contribute."""
        return add_up(self.atoms.part_of(code)) + self.bias

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """Return the reconstruction of x."""
        return self.decode(self.encode(x))
