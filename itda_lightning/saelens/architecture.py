"""The architecture ``itda`` of SAELens: a dictionary as an SAE, whose encoder is a pursuit."""

from dataclasses import dataclass, field
from typing import get_args, no_type_check

import torch
from jaxtyping import Float
from sae_lens import SAE, SAEConfig
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from torch import Tensor, nn
from torch.nn import functional

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_choice
from itda_lightning.pursuit import (
    PURSUITS,
    PursuitName,
    SparseCode,
    check_finite,
    check_least_gain,
    check_sparsity,
    leave_one_out,
    pursue,
)
from itda_lightning.saelens.stored_rows import StoredRows, prepare

ARCHITECTURE = "itda"
# Folding a scale into the bias is exact; the other normalisations would change the activations that atoms explain.
FOLDABLE = ("none", "expected_average_only_in")


# The fields come from a file, so __post_init__ checks their values; SAELens first gives `metadata` as a plain dict.
@no_type_check
@dataclass
class ITDASAEConfig(SAEConfig):
    """Configuration of ``ITDASAE``; fields beyond SAELens's own:

    Attributes:
        k: the sparsity of codes.
        pursuit: "mp" (matching pursuit), "omp" (orthogonal matching pursuit) or "gomp" (generalised orthogonal matching
            pursuit).
        nonnegative: non-negative coefficients only.
        least_gain: as in ``Dictionary``: atoms that explain a smaller share of the energy leave the code.

    Raises:
        InputError: an unknown pursuit, or an input normalisation that depends on the activation.
        ValueError: k < 1, or a ``least_gain`` outside [0, 1].
    """

    k: int = field(kw_only=True)
    pursuit: PursuitName = field(default="mp", kw_only=True)
    nonnegative: bool = field(default=False, kw_only=True)
    least_gain: float = field(default=0.0, kw_only=True)

    @classmethod
    def architecture(cls) -> str:
        return ARCHITECTURE

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.k)
        check_least_gain(self.least_gain)
        check_choice(get_args(PursuitName), {"pursuit": self.pursuit})
        if self.normalize_activations not in FOLDABLE:
            raise InputError(
                f"an itda SAE cannot have normalize_activations={self.normalize_activations!r}: its atoms are "
                f"activations as the model gives them; use one of {FOLDABLE}"
            )


class ITDASAE(SAE[ITDASAEConfig]):
    """A dictionary as an SAE: ``W_dec`` holds the atoms, ``b_dec`` the bias, ``encode`` is the pursuit.

    In half precision the rows of ``W_dec`` are unit only up to rounding (0.4% in bfloat16). ``encode`` normalises them
    again, computes in float32 and divides the coefficients by the norms of the stored rows, so that ``decode`` gives
    the pursuit's reconstruction up to the rounding of the codes themselves.

    Codes have a gradient with respect to the input, with the support held fixed; the atoms are data and get none from
    ``encode``.
    """

    cfg: ITDASAEConfig
    _stored: StoredRows | None = None

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802  SAELens's name
        """The atoms as columns. A view: there are no encoder weights."""
        return self.W_dec.T

    def initialize_weights(self) -> None:
        """Set random unit rows and no bias; those of a dictionary replace them."""
        shape = (self.cfg.d_sae, self.cfg.d_in)
        rows = functional.normalize(torch.randn(shape, dtype=self.dtype, device=self.device), dim=1)
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in, dtype=self.dtype, device=self.device))

    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... d_sae"]:
        """Encode activations (..., d_in) into dense signed codes (..., d_sae) in the dtype of the SAE.

        While hook_z reshaping is on, activations are (..., n_heads, d_head). The coefficients of an atom that is picked
        repeatedly are summed. A pursuit has no pre-activations, so ``hook_sae_acts_pre`` and ``hook_sae_acts_post``
        both see the code. Raises ValueError for activations that are not finite.
        """
        sae_in = self.process_sae_in(x)
        flat = sae_in.reshape(-1, self.cfg.d_in)
        check_finite(flat)
        # Autocast would round the correlations that decide the picks.
        with torch.autocast(flat.device.type, enabled=False):
            if self._stored is None or not self._stored.still_hold(self.W_dec):
                self._stored = None  # frees the old Gram before the new one is built
                self._stored = prepare(self.W_dec)
            prepared, norms = self._stored.prepared, self._stored.norms
            PURSUITS[self.cfg.pursuit].init(prepared, len(flat), self.cfg.k)
            code = pursue(self.cfg.pursuit, flat, prepared, self.cfg.k, self.cfg.nonnegative)
            if least_gain := self.cfg.least_gain:
                centred = flat.detach().to(prepared.dtype)
                code = leave_one_out(code, centred, prepared, least_gain, self.cfg.nonnegative).code
            # Not if only the parameters require a gradient: that would take memory in every call outside no_grad.
            if x.requires_grad and torch.is_grad_enabled():
                solved = PURSUITS[self.cfg.pursuit].orthogonal or self.cfg.least_gain > 0
                code = _differentiable(code, flat.to(prepared.dtype), prepared.atoms, solved)
            if norms is not None:
                code = code._replace(coefficients=code.coefficients / norms[code.support.clamp(min=0)])
            feature_acts = code.to_dense(self.cfg.d_sae).to(sae_in.dtype)
        feature_acts = feature_acts.reshape(*sae_in.shape[:-1], self.cfg.d_sae)
        return self.hook_sae_acts_post(self.hook_sae_acts_pre(feature_acts))

    def decode(self, feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "..."]:
        """Decode dense codes (..., d_sae) into reconstructions, in the shape that ``encode`` was given."""
        reconstruction = feature_acts @ self.W_dec
        # encode subtracts the bias under the same condition.
        if self.cfg.apply_b_dec_to_input:
            reconstruction = reconstruction + self.b_dec
        reconstruction = self.run_time_activation_norm_fn_out(self.hook_sae_recons(reconstruction))
        return self.reshape_fn_out(reconstruction, self.d_head)

    def fold_and_get_W_dec_norm(self) -> Float[Tensor, " d_sae"]:  # noqa: N802  SAELens's name
        """Return ones: atoms are unit rows already, so nothing is folded and the codes do not change."""
        return torch.ones(self.cfg.d_sae, dtype=self.W_dec.dtype, device=self.W_dec.device)

    @torch.no_grad()
    def fold_activation_norm_scaling_factor(self, scaling_factor: float) -> None:
        """Turn an SAE of scaled activations into one of unscaled activations, in place; the factor must be positive.

        Pursuits commute with a positive scale, so dividing the bias is exact and the atoms stay unit rows. Codes are
        then in the units of the activations: the former ones divided by ``scaling_factor``.
        """
        if not scaling_factor > 0:
            raise InputError(f"the scaling factor must be positive, got {scaling_factor}: it is sqrt(d_in) / mean norm")
        self.b_dec.div_(scaling_factor)
        self.cfg.normalize_activations = "none"

    def fold_activation_whitening(
        self,
        mean: Tensor,  # noqa: ARG002
        whitening_matrix: Tensor,  # noqa: ARG002
        unwhitening_matrix: Tensor,  # noqa: ARG002
    ) -> None:
        """Refuse: unwhitened rows are no longer unit, and a pursuit over them picks other atoms."""
        raise InputError(
            "whitening cannot be folded into an itda SAE: a pursuit over unwhitened atoms picks other atoms; "
            "fit the dictionary on activations that are not whitened"
        )


def _differentiable(
    code: SparseCode, x: Float[Tensor, "batch d"], atoms: Float[Tensor, "n d"], solved: bool
) -> SparseCode:
    """Return the same code, bit for bit, whose coefficients have their gradient with respect to x.

    On a fixed support S the coefficients are linear in x. Those of matching pursuit are ``c_t = <x, a_t> -
    sum_{s<t} c_s <a_s, a_t>``, a unit lower triangular system; those that are ``solved`` for, by an orthogonal pursuit
    or by pruning, solve the system of the Gram of S. Takes memory for (batch, k, d).
    """
    used = code.support >= 0
    chosen = atoms[code.support.clamp(min=0)].to(x.dtype) * used[:, :, None]
    correlations = torch.einsum("bd,btd->bt", x, chosen)
    inner = torch.einsum("btd,bsd->bts", chosen, chosen)
    if not solved:
        system = inner.tril(-1) + torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        linear = torch.linalg.solve_triangular(system, correlations[:, :, None], upper=False, unitriangular=True)
    else:
        linear = torch.linalg.solve(inner + torch.diag_embed((~used).to(inner.dtype)), correlations[:, :, None])
    gradient = linear[:, :, 0] - linear[:, :, 0].detach()
    return code._replace(coefficients=code.coefficients + gradient)


# A reloaded module replaces its own classes; those of another package make SAELens raise.
if ARCHITECTURE in SAE_CLASS_REGISTRY and SAE_CLASS_REGISTRY[ARCHITECTURE][0].__module__ == __name__:
    del SAE_CLASS_REGISTRY[ARCHITECTURE]
register_sae_class(ARCHITECTURE, ITDASAE, ITDASAEConfig)
