"""The dictionary: atoms, bias and sources, with encode, decode, append and refine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.dictionary.dictionary_files import IN_INDEX, read_dictionary, write_dictionary
from itda_lightning.dictionary.joint_atoms import SITE_SHARES, SITES, JointAtoms
from itda_lightning.dictionary.named_atoms import Labels
from itda_lightning.dictionary.sources import Sources
from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_choice, check_kind
from itda_lightning.machine.devices import device_of
from itda_lightning.machine.digests import reason
from itda_lightning.pursuit import (
    PURSUITS,
    PreparedAtoms,
    PursuitName,
    check_least_gain,
    check_sparsity,
    check_unit_rows,
)

REFINEMENT: Final = "refinement"  # the metadata's entry about a refinement
# Facts that do not hold for a view of some sites.
OF_WHOLE_ATOMS = (REFINEMENT, "codes", "typical_coefficients", "typical_of")


class Dictionary(JointAtoms):
    """Atoms that are real activations, each with its source (arXiv 2505.17769, Section 3).

    The atoms of a refined dictionary are close to those that were grown, which it keeps: ``grown_atoms``, ``cosines``.

    Args:
        atoms: (n, d) unit-norm rows. bfloat16 halves their memory; codes are computed in single precision all the same.
        bias: (d,) subtracted before encoding and added after decoding (the mean activation); None for zeros.
        sources: one source per atom, or None.
        k: sparsity of the codes.
        pursuit: "mp" (matching pursuit), "omp" (orthogonal matching pursuit) or "gomp" (generalised orthogonal matching
            pursuit).
        nonnegative: non-negative coefficients only.
        least_gain: codes are pruned (``il.prune``) of atoms that explain less than this share of ``|x - bias|^2``, so k
            is a maximum; 0 for codes as the pursuit leaves them.
        capacity: number of atoms to allocate memory for; None for exactly n.
        metadata: JSON-serialisable facts about the fit (model_name, hook_name, ...).
        memory_budget: bytes that encoding and growth may take beyond the atoms, None for half of the machine's
            memory. It decides whether the n x n Gram of the atoms is kept; codes do not depend on it.
        grown: (n, d) atoms before refinement, if ``atoms`` are refined.
        labels: activations that name refined atoms instead of their sources.

    Attributes:
        atoms, bias, k, pursuit, nonnegative, least_gain, metadata, memory_budget: as given; ``metadata`` of a fit has
            ``model_name``, ``hook_name``, the settings of ``data`` and ``fit``, and the figures of each ``validation``.
        sources, labels, cosines, label_cosines: what each atom was grown from, what names it, and how like it is.
        prompts, label_prompts: the text of both, a ``Prompt`` per atom.

    Example:
        >>> import torch
        >>> import itda_lightning as il
        >>> atoms = torch.eye(4)[:3]
        >>> dictionary = il.Dictionary(atoms, k=2, pursuit="omp")
        >>> code = dictionary.encode(torch.tensor([[3.0, 0.0, 2.0, 1.0]]))
        >>> code.support, code.coefficients
        (tensor([[0, 2]]), tensor([[3., 2.]]))
        >>> dictionary.decode(code)
        tensor([[3., 0., 2., 0.]])

    Raises:
        ValueError: atoms that are not unit rows, k < 1, a ``least_gain`` outside [0, 1].
        InputError: an unknown pursuit; a bias, sources, labels or grown atoms of another size; a capacity below n.
    """

    bias: Tensor
    _grown: Tensor | None

    def __init__(
        self,
        atoms: Float[Tensor, "n d"],
        bias: Float[Tensor, " d"] | None = None,
        sources: Sources | None = None,
        *,
        k: int,
        pursuit: PursuitName = "mp",
        nonnegative: bool = False,
        least_gain: float = 0.0,
        capacity: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        memory_budget: int | None = None,
        grown: Float[Tensor, "n d"] | None = None,
        labels: Labels | None = None,
    ) -> None:
        super().__init__()
        n, d = atoms.shape
        capacity = n if capacity is None else capacity
        check_sparsity(k)
        check_kind(bool, {"nonnegative": nonnegative})
        check_least_gain(least_gain)
        check_unit_rows(atoms)
        check_choice(tuple(PURSUITS), {"pursuit": pursuit})
        if bias is not None and bias.shape != (d,):
            raise InputError(f"the bias must have shape ({d},) like an atom, got {tuple(bias.shape)}")
        if sources is not None and len(sources) != n:
            raise InputError(f"{len(sources)} sources for {n} atoms: give one source per atom")
        if capacity < n:
            raise InputError(f"a capacity of {capacity} cannot hold {n} atoms")
        self.k = k
        self.pursuit: PursuitName = pursuit
        self.nonnegative = nonnegative
        self.least_gain = least_gain
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.memory_budget = memory_budget
        self.register_buffer("_atoms", atoms.detach().new_zeros(capacity, d))
        # The mean of many activations needs more precision than atoms do.
        zeros = atoms.new_zeros(d, dtype=torch.promote_types(atoms.dtype, torch.float32))
        self.register_buffer("bias", zeros if bias is None else bias.detach().clone())
        self._atoms[:n] = atoms.detach()
        self._name(capacity, n, sources)
        self.register_buffer("_grown", None)
        if grown is not None:
            check_unit_rows(grown)
            if grown.shape != atoms.shape:
                raise InputError(f"grown atoms must have the shape of the atoms {(n, d)}, got {tuple(grown.shape)}")
            self.keep_grown()[:n] = grown.detach()
        if labels is not None:
            self.relabel(labels)
        self._prepared: PreparedAtoms | None = None
        self._prepared_of: tuple[int, int] | None = None

    @property
    def capacity(self) -> int:
        return len(self._atoms)

    @property
    def d_in(self) -> int:
        return self._atoms.shape[1]

    @property
    def atoms(self) -> Float[Tensor, "n d"]:
        """The unit-norm atoms, in the order in which they were appended."""
        return self._atoms[: self.n_atoms]

    @property
    def grown_atoms(self) -> Float[Tensor, "n d"]:
        """The atoms before refinement: the directions of their sources' activations."""
        return self.atoms if self._grown is None else self._grown[: self.n_atoms]

    @property
    def cosines(self) -> Float[Tensor, " n"] | None:
        """The float64 cosines of atoms with their sources' activations; None if the atoms were not refined."""
        if self._grown is None:
            return None
        return torch.nn.functional.cosine_similarity(self.atoms.double(), self.grown_atoms.double())

    def prepared(self) -> PreparedAtoms:
        """Return the atoms prepared for pursuits: again, if the buffer of atoms changed. Raises as the constructor."""
        if self._prepared is None or self._prepared_of != self._identity():
            check_unit_rows(self.atoms)
            self._prepared, self._prepared_of = None, self._identity()  # frees the old Gram before a new one is built
            self._prepared = PreparedAtoms(self._atoms, self.n_atoms, self.memory_budget)
            if not self._prepared.compiled:
                self._prepared.build_gram()  # codes must not change later, not even by rounding
        return self._prepared

    def append(self, atoms: Float[Tensor, "m d"], table: Int[Tensor, "m 6"]) -> None:
        """Append m unit-norm atoms with their sources, in place. Raises InputError if full or refined."""
        if self._grown is not None or self._labels is not None:
            raise InputError("a refined dictionary does not grow: append to dictionary.unrefined() and refine that")
        start, stop = self.n_atoms, self.n_atoms + len(atoms)
        if stop > self.capacity:
            raise InputError(f"{stop} atoms do not fit a capacity of {self.capacity}")
        self._atoms[start:stop] = atoms
        self._atoms[stop:] = 0  # growth uses it as scratch, and the Gram's tiles read beyond the last atom
        self._table[start:stop] = table.to(self._table.device)
        self._count.fill_(stop)
        self.prompts = None
        if self._prepared is not None:
            # Growth has written to the scratch beyond the atoms since, which does not change the prepared ones.
            self._prepared.place(start, self._atoms[start:stop])
            self._prepared_of = self._identity()

    def keep_grown(self) -> Float[Tensor, "capacity d"]:
        """Keep a copy of the atoms as the grown ones, unless there is one already; return its buffer."""
        if self._grown is None:
            self._grown = self._atoms.clone()
        return self._grown

    def refine(self, atoms: Float[Tensor, "n d"]) -> None:
        """Replace the atoms by as many refined ones in place; the grown atoms are kept. Raises as the constructor."""
        check_unit_rows(atoms)
        if atoms.shape != self.atoms.shape:
            raise InputError(f"refined atoms must have the shape {tuple(self.atoms.shape)}, got {tuple(atoms.shape)}")
        self.keep_grown()
        self._atoms[: len(atoms)] = atoms.detach()

    def unrefined(self) -> "Dictionary":
        """Return a copy with the atoms before refinement, bit for bit, without labels and facts of the refinement."""
        return Dictionary(
            self.grown_atoms,
            self.bias,
            self.sources,
            k=self.k,
            pursuit=self.pursuit,
            nonnegative=self.nonnegative,
            least_gain=self.least_gain,
            metadata={name: value for name, value in self.metadata.items() if name != REFINEMENT},
            memory_budget=self.memory_budget,
        )

    def view(self, *hook_names: str) -> "Dictionary":
        """Return the dictionary of one site of a joint one, in the units of its activations, or of several sites.

        It has the same atoms in the same order, as unit rows, with the same sources and labels. Cosines with labels
        stay those of the whole atoms, with sources they are those at the sites. Raises InputError for a hook point that
        is no site, or an atom without a part there.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> sites = [["blocks.0.hook_resid_post", 2, 1.0], ["blocks.1.hook_resid_post", 1, 1.0]]
            >>> dictionary = il.Dictionary(torch.tensor([[0.6, 0.0, 0.8]]), k=1, metadata={"sites": sites})
            >>> dictionary.view("blocks.0.hook_resid_post").atoms
            tensor([[1., 0.]])
        """
        sites = self.sites.some(hook_names)
        columns = torch.cat([torch.arange(self.d_in)[self.sites.columns(hook)] for hook in sites.hook_names])
        norms = self._norms(sites.hook_names)
        if bool((norms == 0).any()):
            raise InputError(
                f"atom {int(norms.argmin())} has no part at {sites.name}, so there is no dictionary of that site"
            )
        single = len(sites) == 1
        shares = dict(zip(self.sites.hook_names, self.site_shares.T.tolist(), strict=True))
        own = {"hook_name": sites.name, "view_of": self.sites.name, SITE_SHARES: shares, "validation": []}
        own |= {"data": {**(self.metadata.get("data") or {}), "joint": not single}}
        kept = {name: value for name, value in self.metadata.items() if name not in (SITES, *OF_WHOLE_ATOMS)}
        options = {name: getattr(self, name) for name in ("k", "pursuit", "nonnegative", "least_gain", "memory_budget")}
        return Dictionary(
            torch.nn.functional.normalize(self.atoms[:, columns], dim=1),
            self.bias[columns] / sites[0].scale if single else self.bias[columns],
            self.sources,
            metadata=kept | own | ({} if single else {SITES: [list(site) for site in sites]}),
            grown=None if self._grown is None else torch.nn.functional.normalize(self.grown_atoms[:, columns], dim=1),
            labels=self.relabelled,
            **options,
        )

    def save(self, path: str | Path) -> None:
        """Write a new directory in one step. Raises InputError if it exists, is not writable or the disk is full."""
        tensors = {"atoms": self.atoms, "bias": self.bias, "sources": self.source_table}
        if (cosines := self.cosines) is not None:
            tensors |= {"grown": self.grown_atoms, "cosines": cosines}
        index = {name: getattr(self, name) for name in (*IN_INDEX, "least_gain")}
        if (labels := self.relabelled) is not None:
            tensors |= {"labels": labels.table, "label_cosines": labels.cosines}
            index["label_prompts"] = labels.prompts
        write_dictionary(Path(path), index, tensors)

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> "Dictionary":
        """Read what ``save`` wrote. Raises InputError for missing, damaged, foreign or newer files, or no device."""
        saved = read_dictionary(Path(path), device_of(device))
        try:
            return cls(**saved)
        except (TypeError, ValueError) as error:
            raise InputError(f"{path} does not hold a valid dictionary: {reason(error)}; save it again") from error

    def _identity(self) -> tuple[int, int]:
        """Return what changes when the buffer of atoms is replaced (another device or dtype) or written to."""
        return id(self._atoms), 0 if self._atoms.is_inference() else self._atoms._version
