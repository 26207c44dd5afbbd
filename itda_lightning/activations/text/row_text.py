"""The text of one row: special tokens and the characters of its documents, and the place of each token in it."""

from collections.abc import Mapping
from itertools import groupby
from typing import NamedTuple


class RowToken(NamedTuple):
    """A token of a row: its document (-1 for padding) and its span of characters there, as its tokenizer gives it."""

    token: int
    document: int
    start: int
    end: int


class RowText(NamedTuple):
    """The text of a row.

    ``places`` are (start, end) of each token in ``text``, as its tokenizer marks it: tokens may share characters, and
    leave some out. ``ends`` cut the text into one piece per token.
    """

    text: str
    places: list[tuple[int, int]]
    ends: list[int]


def text_of(
    tokens: list[RowToken], extent: tuple[int, int], texts: Mapping[int, str], special_texts: Mapping[int, str]
) -> RowText:
    """Return the text of a row, whatever its tokenizer drops from spans: spaces, or characters that it normalises.

    ``extent`` is the first character of the row's first document that belongs to the row, and the end of those of its
    last document; other documents are whole. Characters in no span go into the piece of the token before them in their
    document, if the row has one; those that tokens share go into the first one's.
    """
    written, places, ends = "", list[tuple[int, int]](), list[int]()
    runs = [(document, list(run)) for document, run in groupby(tokens, lambda token: token.document) if document >= 0]
    for index, (document, run) in enumerate(runs):
        text = texts[document]
        first = extent[0] if index == 0 else 0
        last = extent[1] if index == len(runs) - 1 else len(text)
        first = min(first, *(token.start for token in run), len(text))
        last = max(last, *(token.end for token in run))
        begins = index == 0 and len(run) > 1 and _is_inserted(run[0], special_texts)
        closed = run[-1].start == len(text) and _is_inserted(run[-1], special_texts)
        for token in run[: int(begins)]:
            written, place = _with_special(written, special_texts[token.token])
            places.append(place)
            ends.append(place[1])
        own = run[int(begins) : len(run) - int(closed)]
        origin = len(written) - first
        places += [(origin + token.start, origin + token.end) for token in own]
        written += text[first:last]
        # A token's piece goes up to the next token, but not back before the pieces that are cut already.
        reached = len(written) - (last - first)
        for following, token in enumerate(own, start=1):
            after = own[following].start if following < len(own) else last
            reached = max(reached, origin + token.end, origin + after)
            ends.append(reached)
        for token in run[len(run) - int(closed) :]:
            written, place = _with_special(written, special_texts[token.token])
            places.append(place)
            ends.append(place[1])
    padding = len(tokens) - len(places)
    return RowText(written, places + [(len(written), len(written))] * padding, ends + [len(written)] * padding)


def _is_inserted(token: RowToken, special_texts: Mapping[int, str]) -> bool:
    """Return True for a token that stands for no characters of its document: BOS or a separator."""
    return token.start == token.end and token.token in special_texts


def _with_special(written: str, special: str) -> tuple[str, tuple[int, int]]:
    return written + special, (len(written), len(written) + len(special))
