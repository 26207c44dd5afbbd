"""A saved dictionary whose atoms are split over the processes of a run, for what no single device holds."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda_lightning.dictionary.dictionary_files import read_dictionary
from itda_lightning.dictionary.sources import Prompt, Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.processes import add_up, rank, shares
from itda_lightning.pursuit import PursuitName, ShardedAtoms, SparseCode


class ShardedDictionary(nn.Module):
    """A dictionary of which this process holds a range of the atoms; it encodes together with all others.

    Start the processes with ``torchrun`` and join them by ``torch.distributed.init_process_group`` (gloo on CPUs, nccl on GPUs).
    Then all of them call the same methods with the same activations, and get the same codes, which name atoms as in one process.

    Args:
        path: a directory written by ``Dictionary.save``. Each process reads its own atoms only.
        device: where they go.
        memory_budget: bytes that this process may keep and work in beyond its atoms, None for half of the machine's memory.

    Attributes:
        atoms: this process's atoms, prepared; ``atoms.first`` is the index of the first of them.
        bias: (d,) subtracted before encoding and added after decoding.
        sources: those of all atoms; None for a dictionary that was made without.

    Raises:
        InputError: files as ``Dictionary.load`` refuses them, or a dictionary of the generalised pursuit.
        ValueError: fewer atoms than processes, or atoms that are not unit rows.
    """

    bias: Tensor

    def __init__(self, path: str | Path, device: str | torch.device = "cpu", memory_budget: int | None = None) -> None:
        super().__init__()
        index, tensors = read_dictionary(Path(path), device, atoms=lambda n: shares(n)[rank()])
        self.k: int = index["k"]
        self.pursuit: PursuitName = index["pursuit"]
        if self.pursuit == "gomp":
            raise InputError(
                f"the dictionary in {path} encodes by gomp, which processes do not share: use il.Dictionary"
            )
        self.nonnegative: bool = index["nonnegative"]
        prompts = None if index["prompts"] is None else tuple(Prompt(*prompt) for prompt in index["prompts"])
        known = index["dataset"] is not None
        self.sources = Sources(tensors["sources"].cpu(), index["dataset"], prompts) if known else None
        self.atoms = ShardedAtoms(tensors["atoms"], memory_budget)
        self.register_buffer("bias", tensors["bias"])

    def encode(self, x: Float[Tensor, "batch d"], error_threshold: float | None = None) -> SparseCode:
        """Sparse codes of activations, as ``Dictionary.encode`` gives them; raises like it."""
        centred = x.to(torch.promote_types(x.dtype, torch.float32)) - self.bias
        return self.atoms.pursue(self.pursuit, centred, self.k, self.nonnegative, error_threshold)

    def decode(self, code: SparseCode) -> Float[Tensor, "batch d"]:
        """The reconstruction, (batch, d): each process adds what its atoms contribute."""
        return add_up(self.atoms.part_of(code)) + self.bias

    def forward(self, x: Float[Tensor, "batch d"]) -> Float[Tensor, "batch d"]:
        """The reconstruction of x, (batch, d)."""
        return self.decode(self.encode(x))
