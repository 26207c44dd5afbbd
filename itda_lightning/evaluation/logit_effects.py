"""Find the tokens that directions of the residual stream promote and suppress, and write tokens as text."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

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
# Byte-level tokenizers write each byte as a printable character: itself if it is one, or the next one from 256 on.
_PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
_OTHERS = [byte for byte in range(256) if byte not in _PRINTABLE]
_BYTES = {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + index): byte for index, byte in enumerate(_OTHERS)}


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
        """Compute what each direction adds to every logit, on the CPU."""
        return torch.cat([part.cpu() for _, part in self._parts(self._folded(directions))], dim=1)

    def effects(self, directions: Float[Tensor, "m d"], count: int) -> Int[Tensor, "2 m count"]:
        """Find the ids of the tokens that each direction promotes and suppresses most, strongest first, on the CPU."""
        found = []
        for block in directions.split(BLOCK):
            value = torch.zeros(2, len(block), 0, device=self._weight.device)
            token = value.long()
            for start, logits in self._parts(self._folded(block)):
                largest, at = torch.stack([logits, -logits]).topk(min(count, logits.shape[1]))
                value, token = torch.cat([value, largest], dim=2), torch.cat([token, at + start], dim=2)
                value, order = value.topk(min(count, value.shape[2]))
                token = token.gather(2, order)
            found.append(token.cpu())
        return torch.cat(found, dim=1)

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


def token_texts(tokenizer: Any, tokens: Iterable[int]) -> list[str]:
    r"""Return the text of each token id; bytes that are no whole character are written as ``\xe2``."""
    return [_text(tokenizer, token) for token in tokens]


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    if "\ufffd" not in text:
        return text
    name: str = tokenizer.convert_ids_to_tokens(token)
    if all(character in _BYTES for character in name):
        return bytes(_BYTES[character] for character in name).decode("utf-8", errors="backslashreplace")
    return name
