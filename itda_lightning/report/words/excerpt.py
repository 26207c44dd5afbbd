"""Cut prompts to fit a line, and make invisible or harmful characters visible."""

import re

from itda_lightning.dictionary.sources import Prompt

LINE_BREAKS = {"\r\n": "⏎", "\n": "⏎", "\r": "⏎", "\u2028": "⏎", "\u2029": "⏎", "\t": "⇥"}
# Special tokens as the tokenizers of common models write them.
SPECIAL = re.compile(r"(<\|[^|<>\s]{1,40}\|>|<(?:s|/s|bos|eos|pad|unk)>|\[(?:CLS|SEP|PAD|UNK)\])")
# Line breaks, control characters, lone halves of surrogate pairs, and explicit marks of the direction of text.
HARMFUL = re.compile("\r\n|[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# Whole words fit; rows of dashes or spaces, which are one token in some vocabularies, are cut.
LONGEST_TOKEN = 32


def excerpt(prompt: Prompt, before: int, after: int) -> Prompt:
    """Return the token with up to ``before`` characters before it and ``after`` characters after it, made visible.

    An ellipsis marks cut text; special tokens are kept whole or left out. A token of spaces is shown as open boxes, an
    empty one as ∅.
    """
    start, stop = max(0, len(prompt.before) - before), min(after, len(prompt.after))
    for special in SPECIAL.finditer(prompt.before):
        start = special.end() if special.start() < start < special.end() else start
    for special in SPECIAL.finditer(prompt.after):
        stop = special.start() if special.start() < stop < special.end() else stop
    return Prompt(
        ("…" if start else "") + visible(prompt.before[start:]),
        shown_token(prompt.token),
        visible(prompt.after[:stop]) + ("…" if stop < len(prompt.after) else ""),
    )


def shown_token(token: str) -> str:
    """Return a token made visible and cut: spaces alone as open boxes, an empty one as ∅."""
    token = visible(token)
    token = token if token.strip() else "␣" * len(token) or "∅"
    return token if len(token) <= LONGEST_TOKEN else token[:LONGEST_TOKEN] + "…"


def pieces(text: str) -> list[tuple[str, bool]]:
    """Split a text at its special tokens: (piece, True if it is a special token)."""
    return [(piece, index % 2 == 1) for index, piece in enumerate(SPECIAL.split(text)) if piece]


def visible(text: str) -> str:
    """Return ``text`` on one line, without characters that control a terminal or reverse the direction of other text.

    Characters that join others, as in emoji and many scripts, stay.
    """
    return HARMFUL.sub(_symbol, text)


def _symbol(harmful: re.Match[str]) -> str:
    text = harmful[0]
    if text in LINE_BREAKS:
        return LINE_BREAKS[text]
    return chr(0x2400 + ord(text)) if ord(text) < 0x20 else "␡" if text == "\x7f" else "\ufffd"
