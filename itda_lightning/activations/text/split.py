"""Split documents into training and held-out ones, and choose the rows that are read."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import xxhash

from itda_lightning.activations.text.documents import Documents
from itda_lightning.activations.text.rows import Rows, choice, pack
from itda_lightning.activations.text.tokenizer import Tokenizer
from itda_lightning.errors import InputError

Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = get_args(Split)
TOKENS: dict[Split, str] = {"train": "training_tokens", "heldout": "validation_tokens"}
# Rows are drawn from this many times as many, so that they come from many documents and not the first few.
ROW_POOL = 8
# Settings that ``pack`` takes as they are.
OF_ROWS = ("context_size", "packing", "prepend_bos", "exclude_special_tokens", "exclude_first_position")


def is_held_out(text: str, fraction: float) -> bool:
    """Return True for a held-out document. Its text alone decides, so duplicates are on the same side in every run."""
    return xxhash.xxh3_64_intdigest(text.encode()) < int(fraction * 2**64)


def split_rows(split: Split, documents: Documents, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Rows:
    """Return the rows of a split, as many as hold the tokens of the ``settings`` of an ``ActivationsDataModule``."""
    name = TOKENS[split]
    n_rows = settings[name] // settings["context_size"]
    shuffle, seed = settings["shuffle"], settings["seed"]
    pool = _pool(split, documents, tokenizer, settings, n_rows * (ROW_POOL if shuffle else 1))
    if len(pool) < n_rows:
        raise InputError(
            f"data.{name} asks for {settings[name]:,} tokens but the {split} documents of {documents.name} give "
            f"{len(pool) * settings['context_size']:,}: lower data.{name}, change data.holdout_fraction, or give "
            "more text"
        )
    rows = pool.select(choice(len(pool), n_rows, seed if shuffle else None))
    if not rows.n_kept:
        raise InputError(f"no activation of the {split} rows is left after special tokens are excluded")
    return rows


def most_tokens(split: Split, documents: Documents, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> int:
    """Return the tokens that the rows of a split hold, up to those that ``settings`` ask for; at least one row's."""
    context = settings["context_size"]
    pool = _pool(split, documents, tokenizer, settings, settings[TOKENS[split]] // context)
    return max(1, len(pool)) * context


def _pool(split: Split, documents: Documents, tokenizer: Tokenizer, settings: Mapping[str, Any], n_rows: int) -> Rows:
    ordered = documents.shuffled(settings["seed"]) if settings["shuffle"] else documents.in_order()
    fraction = settings["holdout_fraction"]
    return pack(
        ((index, text) for index, text in ordered if is_held_out(text, fraction) == (split == "heldout")),
        tokenizer,
        dataset=documents.fingerprint,
        n_rows=n_rows,
        **{name: settings[name] for name in OF_ROWS},
    )
