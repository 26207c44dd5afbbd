"""Activations that are there already: arrays, tensors or memory maps instead of a language model and its text."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.harvesting import RowActivations, StoredActivations
from itda_lightning.activations.joint import SCALING_TOKENS, JointActivations, measured_sites
from itda_lightning.activations.model_and_rows import ActivationIdentity, ModelAndRows
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.activations.text.rows import Rows, draw_rows
from itda_lightning.activations.text.split import Split
from itda_lightning.dictionary.sites import Sites, joint_name
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_at_least

SITE = "activations"  # the one hook point of an array
HASHED_ROWS = 4096  # rows that are hashed at a time

Array = Tensor | np.ndarray


class ArrayActivations(ActivationsDataModule):
    """The rows of an array as activations at the one hook point "activations", named by numbers or by given names.

    Arrays of the same rows by name, such as activations of several models for the same tokens, are joint.

    Each row is a document of its own with one token; rows with the same name have the same token. A random share of the
    rows is held out, the others are read in random order. The array is read block by block, several times, and must
    not change meanwhile.

    Args:
        x: (rows, d) of any floating dtype: a tensor, a numpy array or a memory map; or several by name.
        names: one name per row, such as a file, a label or a token, kept as text; None for the row numbers.
        holdout_fraction: share of the rows that is held out.
        seed: decides which rows are held out and the order of the others.
        batch_size: activations per training step.
        device: where refinement runs: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: an array of another shape or dtype, another number of names than of rows, arguments out of range.

    Example:
        >>> import torch
        >>> from itda_lightning.activations.arrays import ArrayActivations
        >>> data = ArrayActivations(torch.randn(100, 8), names=[f"image {i}" for i in range(100)])
        >>> len(data.rows("train")), len(data.rows("heldout"))
        (90, 10)
    """

    def __init__(
        self,
        x: Array | Mapping[str, Array],
        names: Sequence[object] | None = None,
        holdout_fraction: float = 0.1,
        seed: int = 0,
        batch_size: int = 1024,
        device: str = "auto",
    ) -> None:
        ModelAndRows.__init__(self)
        self.arrays = _several(x) if isinstance(x, Mapping) else {SITE: _checked(x)}
        self.joint, self.read_points = isinstance(x, Mapping), list(self.arrays)
        self.hook_names = [joint_name(self.read_points)] if self.joint else self.read_points
        self.names = None if names is None else [str(name) for name in names]
        self.n_rows = len(next(iter(self.arrays.values())))
        self.hparams.update(rows=self.n_rows, holdout_fraction=holdout_fraction, seed=seed, batch_size=batch_size)
        if self.names is not None and len(self.names) != self.n_rows:
            raise InputError(f"sources must be one name per row of x ({self.n_rows:,}), got {len(self.names):,}")
        check_at_least(1, {"batch_size": batch_size})
        held_out = round(holdout_fraction * self.n_rows) if 0 < holdout_fraction < 1 else 0
        if not 1 <= held_out < self.n_rows:
            raise InputError(
                f"holdout_fraction {holdout_fraction:g} of {self.n_rows:,} rows leaves none to hold out or to fit on: "
                "give more rows, or another share between 0 and 1"
            )
        self.model_name = LanguageModelName("an array", device=device)
        self.model_name.torch_device()
        order = torch.from_numpy(np.random.default_rng(seed).permutation(self.n_rows))
        numbers: dict[Split, Int[Tensor, " m"]] = {"train": order[held_out:], "heldout": order[:held_out].sort()[0]}
        self._rows = {split: self._rows_of(of_split) for split, of_split in numbers.items()}
        self._readers = {split: ArrayReader(self.arrays, of_split) for split, of_split in numbers.items()}
        self.harvest_seconds, self.harvested_tokens = 0.0, 0

    @property
    def rereadable(self) -> bool:
        """True: the array can be read again."""
        return True

    @property
    def widths(self) -> dict[str, int]:
        """The width of the one hook point."""
        return {self.hook_names[0]: sum(x.shape[1] for x in self.arrays.values())}

    @cached_property
    def sites(self) -> Sites:
        """The arrays that are joint, scaled by rows drawn at random; none for a single one."""
        if not self.joint:
            return Sites()
        rows, reader = self._rows["train"], self._readers["train"]
        order = draw_rows(rows.kept, SCALING_TOKENS, self.hparams["seed"] + 1)
        return measured_sites([RowActivations(0, reader.read_at(order))], rows.select(order))

    @cached_property
    def language_model(self) -> Any:
        """Raises InputError: there is none."""
        raise InputError("these activations are an array: there is no language model to run")

    @cached_property
    def dataset_fingerprint(self) -> str:
        """A hash of all rows, of their names if they have some, and of the dtype."""
        digest = xxhash.xxh3_128()
        for name, x in self.arrays.items():
            digest.update(f"{f'{name} ' if self.joint else ''}{x.dtype} {tuple(x.shape)}".encode())
            for start in range(0, len(x), HASHED_ROWS):
                digest.update(_as_bytes(x[start : start + HASHED_ROWS]))
        for name in self.names or ():
            digest.update(len(name.encode()).to_bytes(8, "little") + name.encode())
        return digest.hexdigest()

    def rows(self, split: Split) -> Rows:
        """Return the rows of a split, each of one token; ``document`` is the row's number in the array."""
        return self._rows[split]

    cached_rows = rows

    def cache(self, split: Split) -> None:
        """Return None: nothing is written to disk."""

    def stored(self, split: Split) -> StoredActivations:
        """Return what reads the rows of a split."""
        reader = self._readers[split]
        return JointActivations(reader, self.sites) if self.joint else reader

    def fill_caches(self) -> None:
        """Do nothing: the activations are there."""

    def _identity(self, rows: Rows) -> ActivationIdentity:
        text = self.dataset_fingerprint, rows.fingerprint()
        return ActivationIdentity("an array", "array", "float32", "float32", self.read_points, *text)

    def _rows_of(self, numbers: Int[Tensor, " m"]) -> Rows:
        names = RowNumbers(self.n_rows) if self.names is None else dict(enumerate(self.names))
        tokens, lengths = numbers, torch.tensor([len(names[number]) for number in numbers.tolist()])
        if self.names is not None:
            ids = {name: token for token, name in enumerate(dict.fromkeys(self.names))}
            tokens = torch.tensor([ids[self.names[number]] for number in numbers.tolist()])
        zeros, kept = torch.zeros(len(numbers), 1, dtype=torch.int64), torch.ones(len(numbers), 1, dtype=torch.bool)
        spans = zeros, lengths[:, None]
        return Rows(tokens[:, None], numbers[:, None], *spans, kept, 0, self.dataset_fingerprint, names, {})


class RowNumbers(Mapping[int, str]):
    """The numbers of n rows as their names."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._n))

    def __getitem__(self, number: int) -> str:
        return str(number)


class ArrayReader(StoredActivations):
    """The rows ``numbers`` of arrays, read as those of a cache are; a block that changes between reads is refused."""

    def __init__(self, arrays: Mapping[str, Array], numbers: Int[Tensor, " m"]) -> None:
        self._arrays, self._numbers = arrays, numbers
        self._digests: dict[tuple[str, int, int], int] = {}

    @property
    def widths(self) -> dict[str, int]:
        return {name: x.shape[1] for name, x in self._arrays.items()}

    def read(self, start_row: int, stop_row: int) -> RowActivations:
        """Return the float32 activations of consecutive rows. Raises InputError if they have changed."""
        read = self._at(self._numbers[start_row:stop_row])
        for name, x in read.items():
            digest = xxhash.xxh3_64_intdigest(_as_bytes(x))
            if self._digests.setdefault((name, start_row, stop_row), digest) != digest:
                first = int(self._numbers[start_row])
                raise InputError(
                    f"row {first} of the array, or one of the {len(x)} read with it, changed during the fit: give a "
                    "copy, or a memory map that nothing writes to"
                )
        return RowActivations(start_row, read)

    def read_at(self, rows: Int[Tensor, " m"]) -> dict[str, Float[Tensor, "m 1 d"]]:
        """Return the float32 activations of rows anywhere, in that order."""
        return self._at(self._numbers[rows])

    def _at(self, numbers: Int[Tensor, " m"]) -> dict[str, Float[Tensor, "m 1 d"]]:
        return {name: _rows_at(x, numbers) for name, x in self._arrays.items()}


def _rows_at(x: Array, numbers: Int[Tensor, " m"]) -> Float[Tensor, "m 1 d"]:
    if isinstance(x, Tensor):
        return x.detach()[numbers.to(x.device)].float().cpu()[:, None]
    return torch.from_numpy(np.ascontiguousarray(x[numbers.numpy()], dtype=np.float32))[:, None]


def _several(arrays: Mapping[str, Array]) -> dict[str, Array]:
    if len(arrays) < 2:
        raise InputError(f"joint arrays are at least two, by name, got {list(arrays)}: give a single one as it is")
    checked = {str(name): _checked(x) for name, x in arrays.items()}
    rows = {name: len(x) for name, x in checked.items()}
    if len(set(rows.values())) > 1:
        raise InputError(f"joint arrays must have the same rows, such as the same tokens, but they have {rows}")
    return checked


def _checked(x: Array) -> Array:
    if not isinstance(x, (Tensor, np.ndarray)):
        raise InputError(f"x must be a tensor, a numpy array or a memory map, got {type(x).__name__}")
    if x.ndim != 2 or 0 in x.shape:
        raise InputError(
            f"x must have the shape (rows, d), got {tuple(x.shape)}: reshape(-1, d) makes one row of each activation"
        )
    if not (x.is_floating_point() if isinstance(x, Tensor) else np.issubdtype(x.dtype, np.floating)):
        raise InputError(f"x must be of a floating dtype, got {x.dtype}: convert it to float32")
    return x


def _as_bytes(x: Array) -> memoryview:
    if isinstance(x, Tensor):
        x = x.detach().cpu().contiguous().view(torch.uint8).numpy()
    return np.ascontiguousarray(x).view(np.uint8).data
