"""An ITDA in the form that SAEBench's evals expect: that of `sae_bench.custom_saes.BaseSAE`, with non-negative codes.

SAEBench counts a latent as active if its activation is above zero, ranks latents by their largest activation and trains
probes that look for positive weights. A signed code would lose its negative half, so a signed dictionary ``D`` becomes
``[D; -D]``: twice the latents, of which at most one per pair is active, with the same reconstructions.

SAEBench is not imported here: it has an environment of its own (``benchmarks/saebench/``).
"""

import re
from contextlib import suppress
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from sae_lens import SAE
from sae_lens.util import dtype_to_str
from torch import Tensor, nn

from itda_lightning.errors import InputError
from itda_lightning.saelens.architecture import ITDASAE


@dataclass
class SAEBenchConfig:
    """The fields of ``sae_bench.custom_saes.CustomSAEConfig``; SAEBench adds more when it reads them."""

    model_name: str
    d_in: int
    d_sae: int
    hook_layer: int
    hook_name: str
    architecture: str
    dtype: str
    context_size: int | None = None
    hook_head_index: int | None = None
    prepend_bos: bool = True
    apply_b_dec_to_input: bool = True
    normalize_activations: str = "none"
    model_from_pretrained_kwargs: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as SAEBench writes them into its results."""
        return asdict(self)


class SAEBenchView(nn.Module):
    """An ITDA for SAEBench's evals, with unit decoder rows and non-negative codes."""

    def __init__(self, sae: ITDASAE, config: SAEBenchConfig) -> None:
        super().__init__()
        self.sae = sae
        self.cfg = config
        self.signed = not (sae.cfg.nonnegative or sae.cfg.mirrored)

    @property
    def dtype(self) -> torch.dtype:
        return self.sae.dtype

    @property
    def device(self) -> torch.device:
        return self.sae.W_dec.device

    @property
    def W_dec(self) -> Float[Tensor, "d_sae d_in"]:  # noqa: N802  SAELens's name
        """The unit rows: the atoms, for a signed dictionary followed by their negatives."""
        atoms = self.sae.W_dec.detach()
        return torch.cat([atoms, -atoms]) if self.signed else atoms

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:  # noqa: N802  SAELens's name
        """The same rows as columns: an ITDA has no encoder weights."""
        return self.W_dec.T

    @property
    def b_enc(self) -> Float[Tensor, " d_sae"]:
        """Zeros: an ITDA has no encoder bias."""
        return torch.zeros(self.cfg.d_sae, dtype=self.dtype, device=self.device)

    @property
    def b_dec(self) -> Float[Tensor, " d_in"]:
        return self.sae.b_dec.detach()

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Encode activations into non-negative codes."""
        code = self.sae.encode(x)
        return torch.cat([code.clamp(min=0), (-code).clamp(min=0)], dim=-1) if self.signed else code

    def decode(self, feature_acts: Float[Tensor, "... d_sae"]) -> Float[Tensor, "... d_in"]:
        """Decode non-negative codes into reconstructions."""
        if self.signed:
            positive, negative = feature_acts.chunk(2, dim=-1)
            feature_acts = positive - negative
        return self.sae.decode(feature_acts)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_in"]:
        return self.decode(self.encode(x))

    def to(self, *args: Any, **kwargs: Any) -> "SAEBenchView":
        """Move or cast the SAE, as SAEBench does by keywords."""
        # Module.to would cast the tensors only, but the SAE's config holds its dtype and device, too.
        self.sae.to(*args, **kwargs)
        self.cfg.dtype = dtype_to_str(self.dtype)
        return self


def for_saebench(sae: SAE[Any], model_name: str) -> nn.Module:
    """Prepare a copy of an SAE for SAEBench's evals, which file its results under ``model_name``.

    For an ITDA it is a ``SAEBenchView``; for another SAE a copy whose decoder rows have unit norm, if they can be
    folded. SAEBench does the same to SAEs that it loads, and warns of others. Raises InputError for a hook point
    without a numbered layer or with heads.
    """
    hook_name = str(sae.cfg.metadata.hook_name)
    layer = re.search(r"\d+", hook_name)
    if layer is None or hook_name.endswith("hook_z"):
        raise InputError(
            "SAEBench needs a hook point of one layer without heads, such as blocks.14.hook_resid_post, "
            f"got {sae.cfg.metadata.hook_name!r}"
        )
    copied = deepcopy(sae)
    if not isinstance(copied, ITDASAE):
        copied.cfg.metadata.model_name = model_name
        with suppress(NotImplementedError):  # by pursuits, whose rows are unit, and by some other architectures
            copied.fold_W_dec_norm()
        return copied
    n_rows, d_in = copied.W_dec.shape
    one_sided = copied.cfg.nonnegative or copied.cfg.mirrored
    metadata = copied.cfg.metadata
    config = SAEBenchConfig(
        model_name=model_name,
        d_in=d_in,
        d_sae=n_rows if one_sided else 2 * n_rows,
        hook_layer=int(layer[0]),
        hook_name=hook_name,
        architecture=copied.cfg.architecture(),
        dtype=dtype_to_str(copied.dtype),
        context_size=metadata.context_size,
        prepend_bos=bool(metadata.prepend_bos),
        apply_b_dec_to_input=copied.cfg.apply_b_dec_to_input,
    )
    return SAEBenchView(copied, config)
