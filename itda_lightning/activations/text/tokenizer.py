"""Ask of a tokenizer: character offsets, and a token that begins and one that separates texts."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from itda_lightning.errors import InputError


@runtime_checkable
class Tokenizer(Protocol):
    """The part of a fast tokenizer of `transformers` that is used here."""

    is_fast: bool
    bos_token_id: int | None
    eos_token_id: int | None
    all_special_ids: list[int]

    def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool) -> Mapping[str, list]: ...

    def decode(self, token_ids: list[int]) -> str: ...


class SpecialTokens(NamedTuple):
    """The ids of the token that begins a text and of the one that ends it; they may be the same."""

    bos: int
    eos: int


def special_tokens(tokenizer: Tokenizer) -> SpecialTokens:
    """Return BOS and EOS; one stands for both if the other is missing. Raises InputError if there is neither."""
    bos = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else bos
    if bos is None or eos is None:
        raise InputError("the tokenizer has neither a BOS nor an EOS token, which begin and separate texts: set one")
    return SpecialTokens(bos, eos)


def special_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the ids of all special tokens, which a fit leaves out and evals mask, in ascending order."""
    more = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return sorted({*tokenizer.all_special_ids, *(token for token in more if token is not None)})


def check_fast(tokenizer: Tokenizer) -> None:
    """Raise InputError for a tokenizer without character offsets."""
    if not tokenizer.is_fast:
        raise InputError("the tokenizer gives no character offsets: use a fast tokenizer (one with tokenizer.json)")


def encode(tokenizer: Tokenizer, text: str, document: int) -> np.ndarray:
    """Return (4, length) int64: a document's own tokens, its index, and the first and last character of each token."""
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = np.asarray(encoded["input_ids"], dtype=np.int64)
    spans = np.asarray(encoded["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    return np.stack([ids, np.full_like(ids, document), spans[:, 0], spans[:, 1]])
