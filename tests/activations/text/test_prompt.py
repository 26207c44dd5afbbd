"""``prompt()``: the text before a token and the token are what the model read, to the byte."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from transformers.convert_slow_tokenizer import bytes_to_unicode

from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.dictionary.sources import Source
from tests.tiny_model import BOS

BYTES = {character: byte for byte, character in bytes_to_unicode().items()}


def packed(tokenizer: Any, texts: list[str], packing: str = "concatenate", context_size: int = 8) -> Rows:
    return pack(
        enumerate(texts),
        tokenizer,
        dataset="d",
        n_rows=1000,
        context_size=context_size,
        packing=packing,
        prepend_bos=True,
    )


def source(rows: Rows, row: int, position: int) -> Source:
    facts = (rows.tokens, rows.start, rows.end)
    return Source(int(rows.document[row, position]), row, position, *(int(fact[row, position]) for fact in facts))


def read(tokenizer: Any, tokens: list[int]) -> bytes:
    """The bytes that the tokens stand for."""
    pieces = tokenizer.convert_ids_to_tokens(tokens)
    special = tokenizer.all_special_tokens
    return b"".join(p.encode() if p in special else bytes(BYTES[character] for character in p) for p in pieces)


@pytest.mark.parametrize("packing", ["concatenate", "one_per_document"])
@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=4), context_size=st.integers(2, 10))
@example(texts=["🙂🙂🙂", "日本", "é"], context_size=3)
@example(texts=["<s>a</s>", "</s>"], context_size=3)
@example(texts=["  a\n\n b \u2028", "\t "], context_size=4)
def test_before_and_token_are_what_the_model_read(
    tokenizer: Any, packing: str, texts: list[str], context_size: int
) -> None:
    rows = packed(tokenizer, texts, packing, context_size)
    for row, position in rows.kept.nonzero().tolist():
        prompt = rows.prompt(source(rows, row, position))
        bos, *tokens = rows.tokens[row, : position + 1].tolist()
        assert bos == BOS
        assert prompt.before.startswith("<s>")
        ours, theirs = (prompt.before + prompt.token)[3:].encode(), read(tokenizer, tokens)
        # The row may begin, and the token end, inside a character of up to four bytes: that one is written in full.
        cuts = ((a, b) for a in range(4) for b in range(4))
        assert any(ours[a : len(ours) - b] == theirs for a, b in cuts), (ours, theirs)
        try:
            exact = theirs.decode()
        except UnicodeDecodeError:
            continue
        assert ours.decode() == exact
        assert ours.decode() == tokenizer.decode(tokens)


@given(texts=st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_the_whole_prompt_is_the_row(tokenizer: Any, texts: list[str]) -> None:
    rows = packed(tokenizer, texts)
    for row, position in rows.kept.nonzero().tolist():
        prompt = rows.prompt(source(rows, row, position))
        assert prompt.token == texts[rows.document[row, position]][rows.start[row, position] : rows.end[row, position]]
        # Without the bytes of characters that the row cuts.
        text = read(tokenizer, rows.tokens[row, 1:].tolist()).decode(errors="ignore")
        assert text in prompt.before + prompt.token + prompt.after


def test_a_character_of_several_tokens_is_marked_whole_and_written_once(tokenizer: Any) -> None:
    rows = packed(tokenizer, ["qx🙂zj"], context_size=9)
    assert rows.start[0, 1:].tolist() == [0, 1, 2, 2, 2, 2, 3, 4]
    for position in range(3, 7):
        prompt = rows.prompt(source(rows, 0, position))
        assert (prompt.before, prompt.token) == ("<s>qx", "🙂")
    assert rows.prompt(source(rows, 0, 6)).after == "zj"


def test_padding_is_not_part_of_the_prompt(tokenizer: Any) -> None:
    rows = packed(tokenizer, ["a", "b"], "one_per_document")
    assert rows.prompt(source(rows, 1, 1)) == ("<s>", "b", "")


def test_rows_of_several_documents_show_the_separator(tokenizer: Any) -> None:
    rows = packed(tokenizer, ["a", "b", "c"], context_size=7)
    assert rows.prompt(source(rows, 0, 3)) == ("<s>a</s>", "b", "</s>c</s>")
    assert rows.prompt(source(rows, 0, 2)) == ("<s>a", "</s>", "b</s>c</s>")


def test_spaces_that_a_tokenizer_drops_are_part_of_the_prompt(tokenizer: Any) -> None:
    class Trimming:
        """Return spans without the leading space, as many tokenizers do."""

        is_fast, bos_token_id, eos_token_id, all_special_ids = True, 0, 1, [0, 1]

        def __call__(self, text: str, *, add_special_tokens: bool, return_offsets_mapping: bool) -> Any:
            return {"input_ids": [9, 9, 9], "offset_mapping": [(0, 3), (4, 7), (9, 14)]}

        def decode(self, token_ids: list[int]) -> str:
            return tokenizer.decode(token_ids)

    rows = packed(Trimming(), ["the cat  slept"], context_size=4)
    assert rows.prompt(source(rows, 0, 3)) == ("<s>the cat  ", "slept", "")
    assert rows.prompt(source(rows, 0, 2)) == ("<s>the ", "cat", "  slept")
