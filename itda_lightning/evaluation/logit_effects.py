"""Find the tokens that directions of the residual stream promote and suppress, by the model's norm and unembedding."""

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda_lightning.activations.models.language_model import LanguageModel

# Rows and tokens per product: 64 MB of logits.
BLOCK = 4096
# Hook points whose activations are added to the residual stream, in the names of both kinds of TransformerLens models.
IN_THE_STREAM = re.compile(
    r"(^|\.)(hook_resid_(pre|mid|post)|hook_(mlp|attn)_out|(mlp|attn)\.hook_out|blocks\.\d+\.hook_(in|out))$"
)


class LogitEffects(NamedTuple):
    """The tokens whose logits each of m directions changes most, strongest first; all on the CPU.

    Attributes:
        promoted, suppressed: (m, count) int64 token ids.
        promoted_by, suppressed_by: (m, count) float32 changes of the logits.
    """

    promoted: Int[Tensor, "m count"]
    promoted_by: Float[Tensor, "m count"]
    suppressed: Int[Tensor, "m count"]
    suppressed_by: Float[Tensor, "m count"]


class Unembedding:
    """Map directions of the residual stream to logits.

    The final norm divides by a scale that depends on the whole residual stream, so a direction alone has no logits; as
    usual the scale is left out and the norm's weights are folded into the unembedding. Models and loaders store the
    weights differently (as they are, as an offset from one, folded already), so they are read off the norm's output:
    for a direction u of length sqrt(d), whose scale is 1 under an RMS norm, ``(norm(u) - norm(-u)) / 2`` is ``u`` times
    the weights, without the norm's bias. A LayerNorm subtracts the mean and divides by the scale of the centred
    direction, so effects are larger by a factor that all tokens share. The unembedding's bias and any soft cap of the
    logits are left out.
    """

    def __init__(self, language_model: LanguageModel) -> None:
        self._norm = language_model.model.ln_final
        self._weight: Tensor = language_model.model.W_U.detach()
        # Models pad their vocabularies; the rest of the columns are no tokens.
        self.n_tokens = min(self._weight.shape[1], len(language_model.tokenizer))

    @classmethod
    def of(cls, language_model: LanguageModel, hook_name: str) -> "Unembedding | None":
        """Return the unembedding for directions at a hook point.

        Returns:
            None if there is none: a model of the loader `huggingface`, whose parts have no common names, or a hook
            point outside the residual stream, such as the inner neurons of an MLP.
        """
        model = language_model.model
        if not IN_THE_STREAM.search(hook_name) or getattr(model, "W_U", None) is None:
            return None
        return cls(language_model) if getattr(model, "ln_final", None) is not None else None

    def logits(self, directions: Float[Tensor, "m d"]) -> Float[Tensor, "m tokens"]:
        """Compute what each direction adds to every logit: (m, n_tokens) float32 on the CPU."""
        return torch.cat([part.cpu() for _, part in self._parts(self._folded(directions))], dim=1)

    def effects(self, directions: Float[Tensor, "m d"], count: int) -> LogitEffects:
        """Find the ``count`` tokens that each direction promotes and suppresses most, in blocks of bounded memory."""
        parts = [self._effects(self._folded(part), count) for part in directions.split(BLOCK)]
        return LogitEffects(*(torch.cat(columns).cpu() for columns in zip(*parts, strict=True)))

    @torch.no_grad()
    def _folded(self, directions: Float[Tensor, "m d"]) -> Float[Tensor, "m d"]:
        directions = directions.detach().to(self._weight.device).float()
        length = directions.norm(dim=1, keepdim=True) / directions.shape[1] ** 0.5
        # Norms expect rows: (1, m, d).
        u = torch.where(length > 0, directions / length, 0.0)[None].to(self._weight.dtype)
        return ((self._norm(u) - self._norm(-u)) / 2)[0].float() * length

    def _parts(self, folded: Float[Tensor, "m d"]) -> Iterator[tuple[int, Float[Tensor, "m part"]]]:
        for start in range(0, self.n_tokens, BLOCK):
            yield start, folded @ self._weight[:, start : min(start + BLOCK, self.n_tokens)].float()

    def _effects(self, folded: Float[Tensor, "m d"], count: int) -> LogitEffects:
        up, down = _Largest(folded, count), _Largest(folded, count)
        for start, logits in self._parts(folded):
            up.update(start, logits)
            down.update(start, -logits)
        return LogitEffects(up.token, up.value, down.token, -down.value)


class _Largest:
    """Keep the largest values of each row."""

    def __init__(self, rows: Tensor, count: int) -> None:
        self.count = count
        self.value = rows.new_zeros(len(rows), 0)
        self.token = torch.zeros(len(rows), 0, dtype=torch.int64, device=rows.device)

    def update(self, start: int, values: Float[Tensor, "m part"]) -> None:
        value, token = values.topk(min(self.count, values.shape[1]))
        value, token = torch.cat([self.value, value], dim=1), torch.cat([self.token, token + start], dim=1)
        self.value, order = value.topk(min(self.count, value.shape[1]))
        self.token = token.gather(1, order)
