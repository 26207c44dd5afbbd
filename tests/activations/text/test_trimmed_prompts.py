"""Before, token and after are the text that was read, whatever a tokenizer leaves out of its spans."""

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from itda_lightning.activations.text.retokenisation import retokenise
from itda_lightning.activations.text.rows import Rows, pack
from itda_lightning.dictionary.sources import Prompt, Source
from tests.activations.text.tokenizers_of import KINDS, make_tokenizer

TEXTS = ["good morning to all, a good day ", " the cat  sat.\n\n", "½ morning", "good 🙂 morning", "ﬁne"]
characters = st.sampled_from([*"ab go.\n\t", "  ", "½", "ﬁ", "🙂", "e\u0301", "\u200b", "\ufeff", "…", "İ", "<s>"])
documents = st.lists(st.lists(characters, max_size=12).map("".join), min_size=1, max_size=4)


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest, prose: list[str]) -> Any:
    return make_tokenizer(request.param, [*prose[:3], *TEXTS * 5])


def packed(tokenizer: Any, texts: list[str], context_size: int, packing: str, prepend_bos: bool = True) -> Rows:
    return pack(
        enumerate(texts),
        tokenizer,
        dataset="d",
        n_rows=1000,
        context_size=context_size,
        packing=packing,
        prepend_bos=prepend_bos,
        exclude_special_tokens=False,
        exclude_first_position=False,
    )


def prompts_of(rows: Rows, row: int) -> list[Prompt]:
    """The prompt of every token of a row that is no padding."""
    position = (rows.document[row] >= 0).nonzero()[:, 0]
    table = rows.source_table(position.new_full(position.shape, row), position)
    return [rows.prompt(Source(*source)) for source in table.tolist()]


@given(texts=documents, context_size=st.integers(4, 9), prepend_bos=st.booleans())
@example(texts=TEXTS, context_size=5, prepend_bos=True)
@example(texts=["  \u200b.good\u200b", "\n\n", ".a\u200b", " good "], context_size=4, prepend_bos=False)
def test_rows_are_the_documents_one_after_another(
    tokenizer: Any, texts: list[str], context_size: int, prepend_bos: bool
) -> None:
    rows = packed(tokenizer, texts, context_size, "concatenate", prepend_bos)
    read = [text for text in texts if tokenizer(text, add_special_tokens=False)["input_ids"]]
    everything, reached = "".join(f"{text}</s>" for text in read), 0
    for row in range(len(rows)):
        whole = "".join(rows.pieces(row))
        for prompt, document, start, end in zip(
            prompts_of(rows, row), *(part[row].tolist() for part in (rows.document, rows.start, rows.end)), strict=True
        ):
            assert "".join(prompt) == whole
            assert prompt.token == texts[document][start:end] or prompt.token in ("<s>", "</s>")
        body = whole.removeprefix("<s>") if prepend_bos else whole
        # Rows that cut a character between them both show it.
        begin = next(reached - shared for shared in range(4) if everything.startswith(body, reached - shared))
        reached = begin + len(body)


@given(texts=documents)
@example(texts=TEXTS)
@example(texts=[" .\u200bgood. \u200b", "<s> a ", "\u200b a"])
@pytest.mark.parametrize("packing", ["concatenate", "one_per_document"])
def test_a_document_in_one_row_is_shown_whole(tokenizer: Any, packing: str, texts: list[str]) -> None:
    for text in texts:
        length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not length:
            continue
        end = "</s>" if packing == "concatenate" else ""
        for context_size in (length + 2, length + 1)[: 1 + (packing == "one_per_document" and length > 3)]:
            if context_size < 4:
                continue
            rows = packed(tokenizer, [text], context_size, packing)
            for prompt in prompts_of(rows, 0):
                assert "".join(prompt) == f"<s>{text}{end}"


@pytest.mark.parametrize(
    ("text", "position", "prompt"),
    [
        ("½ morning", 1, ("", "½", " morning</s>")),
        ("good 🙂 morning", 0, ("", "good", " 🙂 morning</s>")),
        ("good \n", 0, ("", "good", " \n</s>")),
    ],
)
def test_what_a_trimming_tokenizer_leaves_out(text: str, position: int, prompt: Prompt, prose: list[str]) -> None:
    tokenizer = make_tokenizer("trimming and nfkc", [*prose[:3], *TEXTS * 5])
    length = len(tokenizer(text, add_special_tokens=False)["input_ids"])
    rows = packed(tokenizer, [text], length + 1, "concatenate", prepend_bos=False)
    assert prompts_of(rows, 0)[position] == prompt


def test_retokenised_rows_hold_the_same_text(tokenizer: Any, prose: list[str]) -> None:
    own = make_tokenizer("trimming", [*prose[:3], *TEXTS * 5])
    rows = packed(own, TEXTS, 6, "concatenate")
    other = retokenise(rows, own, tokenizer, prepend_bos=True)
    assert ["".join(other.pieces(row)) for row in range(len(rows))] == [
        "".join(rows.pieces(row)) for row in range(len(rows))
    ]
