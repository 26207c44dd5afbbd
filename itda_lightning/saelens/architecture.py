"""The architecture ``itda`` of SAELens: a dictionary as an SAE, whose encoder is a pursuit."""

from dataclasses import dataclass, field
from typing import Any, no_type_check

import torch
from jaxtyping import Float
from sae_lens import SAE, SAEConfig
from sae_lens.registry import SAE_CLASS_REGISTRY, register_sae_class
from sae_lens.saes.sae import SAEMetadata
from sae_lens.saes.topk_sae import TopK
from torch import Tensor, nn
from torch.nn import functional

from itda_lightning.errors import InputError
from itda_lightning.machine.checks import check_choice, check_kind
from itda_lightning.pursuit import PURSUITS, PursuitName, check_least_gain, check_sparsity
from itda_lightning.pursuit.gradient import differentiable
from itda_lightning.saelens.encoding_op import pursue_stored
from itda_lightning.saelens.sae_metadata import KEY, Content
from itda_lightning.saelens.stored_rows import StoredRows, norms_to_fold

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
        mirrored: ``W_dec`` holds the atoms D and their negatives, [D; -D], and codes are non-negative: the positive
            parts of the signed codes of D, then the sizes of their negative parts.

    Raises:
        InputError: an unknown pursuit, an input normalisation that depends on the activation, ``mirrored`` with
            non-negative codes of D or an odd number of rows.
        ValueError: k < 1, or a ``least_gain`` outside [0, 1].
    """

    k: int = field(kw_only=True)
    pursuit: PursuitName = field(default="mp", kw_only=True)
    nonnegative: bool = field(default=False, kw_only=True)
    least_gain: float = field(default=0.0, kw_only=True)
    mirrored: bool = field(default=False, kw_only=True)

    @classmethod
    def architecture(cls) -> str:
        return ARCHITECTURE

    def __setattr__(self, name: str, value: Any) -> None:
        # SAELens makes the configuration first and then gives it the metadata of the file: those that print in a line.
        if name == "metadata" and isinstance(value, SAEMetadata) and isinstance(value[KEY], dict):
            value[KEY] = Content(value[KEY])
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sparsity(self.k)
        check_kind(bool, {"nonnegative": self.nonnegative})
        check_least_gain(self.least_gain)
        check_choice(tuple(PURSUITS), {"pursuit": self.pursuit})
        if self.mirrored and (self.nonnegative or self.d_sae % 2):
            raise InputError(
                "mirrored is for the rows [D; -D] of signed codes, got "
                f"nonnegative={self.nonnegative} and {self.d_sae} rows: set mirrored=False"
            )
        if self.normalize_activations not in FOLDABLE:
            raise InputError(
                f"an itda SAE cannot have normalize_activations={self.normalize_activations!r}: its atoms are "
                f"activations as the model gives them; use one of {FOLDABLE}"
            )


class ITDASAE(SAE[ITDASAEConfig]):
    """A dictionary as an SAE: ``W_dec`` holds the atoms, ``b_dec`` the bias, ``encode`` is the pursuit.

    Rows need not be unit: ``encode`` normalises those that are not, computes in at least float32 and divides the
    coefficients by the norms of the rows as they are, so that ``decode`` gives the pursuit's reconstruction up to
    rounding. Half precision, in which rows are unit only up to 0.4%, is one case of that. Rows may be written to at any
    time, in any way; a row of zeros is never picked.

    Codes have gradients with respect to activations, atoms and bias, with the support held fixed.
    """

    cfg: ITDASAEConfig

    def __init__(self, cfg: ITDASAEConfig, use_error_term: bool = False) -> None:
        super().__init__(cfg, use_error_term)
        self._stored = StoredRows()

    def __setattr__(self, name: str, value: Any) -> None:
        # As SAELens's tied architecture does: its tools assign what they read from there.
        if name != "W_enc":
            super().__setattr__(name, value)

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802  SAELens's name
        """The atoms as columns. A view: there are no encoder weights, and what is assigned is ignored."""
        return self.W_dec.T

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"]:
        """Zeros: a pursuit has no encoder bias."""
        return torch.zeros(len(self.W_dec), dtype=self.W_dec.dtype, device=self.W_dec.device)

    def get_activation_fn(self) -> TopK:
        """Return the activation function of the kind: at most k latents, of all, so tools must not encode with some."""
        return TopK(self.cfg.k)

    def initialize_weights(self) -> None:
        """Set random unit rows and no bias; those of a dictionary replace them."""
        shape = (self.cfg.d_sae, self.cfg.d_in)
        rows = functional.normalize(torch.randn(shape, dtype=self.dtype, device=self.device), dim=1)
        if self.cfg.mirrored:
            rows = torch.cat([rows[: len(rows) // 2], -rows[: len(rows) // 2]])
        self.W_dec = nn.Parameter(rows)
        self.b_dec = nn.Parameter(torch.zeros(self.cfg.d_in, dtype=self.dtype, device=self.device))

    @no_type_check  # torch.compile traces it, and cannot trace checks of types
    def encode(self, x: Float[Tensor, "..."]) -> Float[Tensor, "... d_sae"]:
        """Encode activations (..., d_in) into dense codes (..., d_sae) in the dtype of the SAE.

        They are signed, unless the configuration says ``nonnegative`` or ``mirrored``. While hook_z reshaping is on,
        activations are (..., n_heads, d_head). The coefficients of an atom that is picked repeatedly are summed. A
        pursuit has no pre-activations, so ``hook_sae_acts_pre`` and ``hook_sae_acts_post`` both see the code. Raises
        ValueError for activations, and InputError for rows, that are not finite.
        """
        sae_in = self.process_sae_in(x)
        flat, cfg, rows = sae_in.reshape(-1, self.cfg.d_in), self.cfg, self.W_dec
        settings = cfg.pursuit, cfg.k, cfg.nonnegative, cfg.least_gain, cfg.mirrored
        support, coefficients = pursue_stored(flat.detach(), rows.detach(), self._stored.key, *settings)
        # Tensors made in inference mode cannot be saved for backward; whether they are cannot be asked of a traced one.
        if torch.is_grad_enabled() and not torch.compiler.is_compiling() and rows.is_inference():
            rows = rows.clone()
        atoms = rows[: len(rows) // 2] if cfg.mirrored else rows
        solved = PURSUITS[cfg.pursuit].orthogonal or cfg.least_gain > 0
        coefficients = differentiable(support, coefficients, flat, atoms, solved)
        dense = coefficients.new_zeros(flat.shape[0], len(atoms)).scatter_add(1, support.clamp(min=0), coefficients)
        if cfg.mirrored:
            dense = torch.cat([dense.relu(), torch.where(dense < 0, -dense, 0.0)], dim=1)
        feature_acts = dense.to(sae_in.dtype).reshape(*sae_in.shape[:-1], len(rows))
        return self.hook_sae_acts_post(self.hook_sae_acts_pre(feature_acts))

    @no_type_check  # as encode
    def decode(self, feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "..."]:
        """Decode dense codes (..., d_sae) into reconstructions, in the shape that ``encode`` was given."""
        reconstruction = feature_acts @ self.W_dec
        # encode subtracts the bias under the same condition.
        if self.cfg.apply_b_dec_to_input:
            reconstruction = reconstruction + self.b_dec
        reconstruction = self.run_time_activation_norm_fn_out(self.hook_sae_recons(reconstruction))
        return self.reshape_fn_out(reconstruction, self.d_head)

    @torch.no_grad()
    def fold_and_get_W_dec_norm(self) -> Float[Tensor, " d_sae"]:  # noqa: N802  SAELens's name
        """Make all rows unit in place and return their norms, by which codes grow; reconstructions stay.

        Rows that are unit as far as their dtype can hold it, and rows of zeros, stay as they are, with a norm of 1.
        """
        norms = torch.ones_like(self.W_dec[:, 0]) if (found := norms_to_fold(self.W_dec)) is None else found
        self.W_dec.div_(norms[:, None])
        return norms

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


# A reloaded module replaces its own classes; those of another package make SAELens raise.
if ARCHITECTURE in SAE_CLASS_REGISTRY and SAE_CLASS_REGISTRY[ARCHITECTURE][0].__module__ == __name__:
    del SAE_CLASS_REGISTRY[ARCHITECTURE]
register_sae_class(ARCHITECTURE, ITDASAE, ITDASAEConfig)
