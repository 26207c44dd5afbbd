"""Atoms with a part at each of several hook points: one code for all of them, or from some of them."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor

from itda_lightning.dictionary.encoding_atoms import Activations, EncodingAtoms, as_tensor
from itda_lightning.dictionary.sites import Sites
from itda_lightning.errors import InputError
from itda_lightning.pursuit import SparseCode, combine

SITES: Final = "sites"  # the metadata's entry about them
SITE_SHARES: Final = "site_shares"  # and that of a view about the energy of the whole atoms
ENTRIES = 2**24  # of gathered parts at a time
# Activations of a joint dictionary may come by hook point.
AtSites = Mapping[str, Activations]


class JointAtoms(EncodingAtoms):
    """Atoms that may be joint: of activations at several hook points side by side, each scaled (``sites``)."""

    metadata: dict[str, Any]

    @property
    def sites(self) -> Sites:
        """The hook points of a joint dictionary, in the order of their columns; empty for one hook point."""
        return Sites.of(self.metadata.get(SITES) or [])

    @property
    def site_shares(self) -> Float[Tensor, "n sites"]:
        """The share of each atom's energy at each site, (n, sites); rows sum to 1."""
        parts = [self.atoms[:, self.sites.columns(hook)].float().square().sum(1) for hook in self.sites.hook_names]
        energy = torch.stack(parts, dim=1) if parts else self.atoms.new_ones(len(self.atoms), 1, dtype=torch.float32)
        return energy / energy.sum(1, keepdim=True)

    def check_one_site(self, remedy: str = "take dictionary.view(hook_name) of one of them") -> None:
        """Raise InputError if the dictionary is joint, for what is done at one hook point."""
        if self.sites:
            raise InputError(f"the dictionary is joint, of {self.sites.hook_names}: {remedy}")

    @abstractmethod
    def view(self, *hook_names: str) -> "JointAtoms":
        """Return the dictionary of one site, in the units of its activations, or the joint one of several."""

    def parts(self, hook_name: str) -> Float[Tensor, "n width"]:
        """Return the part of each atom at a site, in the units of its activations. Raises InputError for no site."""
        return self.atoms[:, self.sites.columns(hook_name)] / self.sites.scale(hook_name)

    def encode(self, x: Activations | AtSites, error_threshold: float | None = None) -> SparseCode:
        """Encode as ``EncodingAtoms.encode``; a joint dictionary also takes activations by hook point.

        If these are of some sites only, the code explains those as well as it can: atoms are chosen by their parts
        there. Its coefficients belong to the whole atoms, so ``decode`` tells what they mean at the other sites.

        Args:
            x: (..., d) activations; or hook point -> (..., width) activations of the same tokens, of all sites or some.
            error_threshold: stop once the unexplained share of an activation's ``|x - bias|^2`` is at most this.

        Returns:
            The code: support and coefficients (..., k), residual_energy (...) of the sites that were given, scaled.

        Raises:
            ValueError: x of another width or with non-finite rows, sites of other tokens.
            InputError: activations by hook point for a dictionary of one, or at a hook point that is no site.

        Example:
            >>> import torch
            >>> import itda_lightning as il
            >>> sites = [["blocks.0.hook_resid_post", 2, 1.0], ["blocks.1.hook_resid_post", 1, 1.0]]
            >>> atoms = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]])
            >>> dictionary = il.Dictionary(atoms, k=1, metadata={"sites": sites})
            >>> code = dictionary.encode({"blocks.0.hook_resid_post": torch.tensor([[3.0, 0.0]])})
            >>> dictionary.decode(code, "blocks.1.hook_resid_post")
            tensor([[4.]])
        """
        if not isinstance(x, Mapping):
            return super().encode(x, error_threshold)
        x = self._by_site(x)
        if set(x) == set(self.sites.hook_names):
            return super().encode(self.sites.join(x), error_threshold)
        some = self.view(*x)
        # The dictionary of one site is in the units of its activations.
        scale = 1.0 if some.sites else self.sites.scale(next(iter(x)))
        code = some.encode(x if some.sites else next(iter(x.values())), error_threshold)
        norms = self._norms(list(x)) / scale
        coefficients = code.coefficients / norms.to(code.coefficients)[code.support.clamp(min=0)]
        return code._replace(coefficients=coefficients, residual_energy=code.residual_energy * scale**2)

    def decode(self, code: SparseCode, hook_name: str | None = None) -> Float[Tensor, "*leading d"]:
        """Return the reconstruction ``coefficients @ atoms[support] + bias``, (..., d).

        Of a joint dictionary that is of all sites side by side, or with ``hook_name`` of one, (..., width), in its own
        units. Raises InputError for a hook point that is no site.
        """
        if hook_name is None:
            return super().decode(code)
        columns, scale = self.sites.columns(hook_name), self.sites.scale(hook_name)
        leading = code.residual_energy.shape
        flat = code if len(leading) == 1 else code.reshape(leading.numel())
        joint = combine(flat.support, flat.coefficients, self.atoms[:, columns].to(flat.coefficients.dtype))
        return ((joint + self.bias[columns]) / scale).reshape(*leading, columns.stop - columns.start)

    def own_coefficients(self, code: SparseCode, hook_name: str, x: Float[Tensor, "batch width"]) -> SparseCode:
        """Return the code with the coefficients that explain one site best, by least squares on its support.

        Args:
            code: of ``batch`` activations.
            hook_name: the site.
            x: its activations.

        Raises:
            InputError: a hook point that is no site, or activations of another number or width than the code's.
        """
        columns = self.sites.columns(hook_name)
        if x.shape != (len(code.support), columns.stop - columns.start):
            raise InputError(
                f"{len(code.support)} codes need as many activations of width {columns.stop - columns.start} at "
                f"{hook_name}, got {tuple(x.shape)}"
            )
        scaled = x.double() * self.sites.scale(hook_name) - self.bias[columns].double()
        atoms, step = self.atoms[:, columns], max(1, ENTRIES // (code.support.shape[1] * x.shape[1]))
        solved, left = [], []
        for support, rows in zip(code.support.split(step), scaled.split(step), strict=True):
            parts = atoms[support.clamp(min=0)].double() * (support >= 0)[:, :, None]
            # Of the smallest norm if the parts are dependent; 0 where there is no atom.
            inverse = torch.linalg.pinv(parts @ parts.mT, hermitian=True)
            solved.append((inverse @ (parts @ rows[:, :, None]))[:, :, 0])
            left.append((rows - (solved[-1][:, None] @ parts)[:, 0]).square().sum(1))
        coefficients = torch.cat(solved).to(code.coefficients)
        return SparseCode(code.support, coefficients, torch.cat(left).to(code.residual_energy))

    def _norms(self, hook_names: list[str]) -> Float[Tensor, " n"]:
        """Return the norms of the atoms' parts at some sites together."""
        parts = [self.atoms[:, self.sites.columns(hook)].double() for hook in hook_names]
        return torch.cat(parts, dim=1).norm(dim=1)

    def _by_site(self, x: AtSites) -> dict[str, Tensor]:
        if not self.sites:
            raise InputError(f"the dictionary is of one hook point: give its activations as they are, not by {list(x)}")
        return {hook: as_tensor(of_site, self.bias.device) for hook, of_site in x.items()}
