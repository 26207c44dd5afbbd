"""A trial run of a model on a few tokens: what its hook points hold, found out before anything is harvested."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

# A short row: where positions or attention differ, later tokens show it. No model has this number of heads, whose axis
# could be taken for positions; two rows show what has no axis for rows.
TRIAL_ROWS, TRIAL_TOKENS = 2, 61
# Ids of words: the first are special tokens, the last may stand for images.
FIRST_WORD, LAST_WORD = 3, 1000


def trial_tokens(n_tokens: int, device: torch.device, longest: int | None = None) -> Int[Tensor, "rows tokens"]:
    """Return two rows of different tokens of a vocabulary, for a model that reads at most ``longest`` of them."""
    length = TRIAL_TOKENS if longest is None else max(1, min(TRIAL_TOKENS, longest - 1))
    n_words = max(1, min(n_tokens, LAST_WORD) - FIRST_WORD)
    words = torch.arange(TRIAL_ROWS * length) * 37 % n_words + FIRST_WORD
    return (words % n_tokens).reshape(TRIAL_ROWS, length).to(device)


def n_embeddings(model: Any) -> int:
    """Return the number of tokens that a model of `transformers` has embeddings of."""
    return int(model.get_input_embeddings().weight.shape[0])
