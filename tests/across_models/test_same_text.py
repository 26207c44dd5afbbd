"""The text of one model's rows as another model reads it."""

from pathlib import Path
from typing import Any

from itda_lightning.across_models.same_text import SameText
from itda_lightning.activations.text.retokenisation import retokenise
from tests.fits import data_settings
from tests.other_model import other_tokens_dir  # noqa: F401  a fixture
from tests.tiny_model import LONGEST_CONTEXT


def test_what_is_longer_than_the_other_model_reads_is_cut_off(
    tiny_model_dir: Path,
    other_tokens_dir: Path,  # noqa: F811
    prose_file: Path,
) -> None:
    """The tokenizer does not say how much that is: its model's configuration does."""
    own, other = (
        SameText(**data_settings(model, prose_file, context_size=LONGEST_CONTEXT, device="cpu"))
        for model in (tiny_model_dir, other_tokens_dir)
    )
    tokenizer: Any = other.tokenizer
    assert tokenizer.model_max_length > 10**9
    uncut = retokenise(own.rows("heldout"), own.tokenizer, other.tokenizer, prepend_bos=True)
    assert uncut.context_size > LONGEST_CONTEXT
    other.read_the_text_of(own, "heldout")
    rows = other.rows("heldout")
    assert rows.context_size == LONGEST_CONTEXT
    assert rows.tokens.tolist() == uncut.tokens[:, :LONGEST_CONTEXT].tolist()
    read = sum(len(batch) for batch in other.val_dataloader())
    assert read == rows.n_kept > 0
