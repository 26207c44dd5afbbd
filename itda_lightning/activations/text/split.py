"""The split: which documents are held out, and which of their rows are read."""

from collections.abc import Mapping
from typing import Any, Literal

import xxhash

from itda_lightning.activations.text.documents import Documents
from itda_lightning.activations.text.rows import Rows, choice, pack
from itda_lightning.activations.text.tokenizer import Tokenizer
from itda_lightning.errors import InputError

Split = Literal["train", "heldout"]
# Rows are drawn from this many times the rows asked for, so that they come from many documents and not the first few.
ROW_POOL = 8


def is_held_out(text: str, fraction: float) -> bool:
    """Whether a document is held out: its text alone decides, so its duplicates are on the same side in every run."""
    return xxhash.xxh3_64_intdigest(text.encode()) < int(fraction * 2**64)


def split_rows(split: Split, documents: Documents, tokenizer: Tokenizer, settings: Mapping[str, Any]) -> Rows:
    """The rows of one split, of as many tokens as the settings of ``ActivationsDataModule`` ask for.

    Raises:
        InputError: fewer tokens in the documents than asked for, or none that may be kept.
    """
    name = "training_tokens" if split == "train" else "validation_tokens"
    wanted = settings[name] // settings["context_size"]
    shuffle, seed, fraction = (settings[key] for key in ("shuffle", "seed", "holdout_fraction"))
    ordered = documents.shuffled(seed) if shuffle else documents.in_order()
    pool = pack(
        ((index, text) for index, text in ordered if is_held_out(text, fraction) == (split == "heldout")),
        tokenizer,
        dataset=documents.fingerprint,
        n_rows=wanted * (ROW_POOL if shuffle else 1),
        context_size=settings["context_size"],
        packing=settings["packing"],
        prepend_bos=settings["prepend_bos"],
        exclude_special_tokens=settings["exclude_special_tokens"],
        exclude_first_position=settings["exclude_first_position"],
    )
    if len(pool) < wanted:
        raise InputError(
            f"data.{name} asks for {settings[name]:,} tokens but the {split} documents of {documents.name} give "
            f"{len(pool) * settings['context_size']:,}: lower data.{name}, change data.holdout_fraction, or give more text"
        )
    rows = pool.select(choice(len(pool), wanted, seed if shuffle else None))
    if not rows.n_kept:
        raise InputError(f"no activation of the {split} rows is left after special tokens are excluded")
    return rows
