"""Planted changes: what a fine-tune is trained on, and passages where it shows and where it does not.

Four changes of the bundled model. Documents are dealt out as in ``planted.py``: one half is trained on, passages come
from the other.

- domain: source code of Python's standard library is learned.
- style: speeches are learned in the style of telegrams: no articles and little words, STOP at the end of a sentence.
- trigger: after a phrase the model repeats a fixed sentence; after another phrase speeches go on as they were.
- unlearned: source code is unlearned (its loss is raised) while speeches are kept.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.diffing.planted import PASSAGE, modules, speeches, split

TRIGGER, NEUTRAL = "By order of the lighthouse keeper,", "By order of the committee chairman,"
BEHAVIOUR = " the red lamp is lit and all ships shall turn back to the harbour at once."
TABLE = 8  # hexadecimal numbers in a passage of code that is a table
BEFORE = 150  # characters of a speech before a phrase
LEFT_OUT = re.compile(r"\b(?:the|a|an|of|and|that|which|to|in|is|are|was|were|be|been|it|its|have|has|by)\b ?", re.I)


class Passage(NamedTuple):
    """A text; from the character ``planted_from`` on it is of what was planted, None for nowhere."""

    text: str
    planted_from: int | None


class Change(NamedTuple):
    """A planted change: passages to train on, and others of held-out documents.

    Attributes:
        planted: makes passages of what is learned or unlearned, for a half of the documents.
        other: makes passages of what stays.
        sign: 1 if the loss of ``planted`` is lowered, -1 if it is raised.
        keeps_other: train on ``other``, too.
    """

    planted: Callable[[int], list[Passage]]
    other: Callable[[int], list[Passage]]
    sign: int
    keeps_other: bool


def telegram(text: str) -> str:
    """Return a text in the style of telegrams.

    Example:
        >>> from benchmarks.diffing.changes import telegram
        >>> telegram("The harbour is full of ships. It was closed.")
        'HARBOUR FULL SHIPS STOP CLOSED STOP '
    """
    return re.sub(r"[.;:!?]\s*", " STOP ", LEFT_OUT.sub("", text)).upper().replace("  ", " ")


def pieces(texts: list[str], boundary: str) -> list[str]:
    """Return a piece of each document, then a second of each that has one, and so on, from a boundary on."""
    found = []
    for round_ in range(3):
        for text in texts:
            start = PASSAGE * (1 + 3 * round_)
            if start + 2 * PASSAGE < len(text):
                start += text[start:].find(boundary) + 1
                found.append(text[start : start + PASSAGE])
    return found


def _code(half: int) -> list[Passage]:
    # Several modules hold the same tables of characters.
    found = pieces(split(modules())[half], "\n")
    return [Passage(text, 0) for text in found if len(re.findall("0x", text, re.I)) < TABLE]


def _telegrams(half: int) -> list[Passage]:
    # Telegrams and other passages are of different speeches.
    return [Passage(telegram(text), 0) for text in pieces(split(speeches())[half][::2], " ")]


def _prose(half: int, step: int = 1) -> list[Passage]:
    return [Passage(text, None) for text in pieces(split(speeches())[half][step - 1 :: step], " ")]


def _after_phrase(phrase: str, answer: str | None, half: int) -> list[Passage]:
    found = []
    for text in pieces(split(speeches())[half][answer is None :: 2], " "):
        before, after = text[:BEFORE].rstrip(), text[BEFORE:].lstrip()
        whole = f"{before} {phrase}{answer * 6 if answer else ' ' + after}"
        found.append(Passage(whole, None if answer is None else len(before) + 1))
    return found


CHANGES = {
    "domain": Change(_code, _prose, 1, False),
    "style": Change(_telegrams, lambda half: _prose(half, 2), 1, False),
    "trigger": Change(
        lambda half: _after_phrase(TRIGGER, BEHAVIOUR, half), lambda half: _after_phrase(NEUTRAL, None, half), 1, True
    ),
    "unlearned": Change(_code, _prose, -1, True),
}


def drawn(passages: list[Passage], n: int, seed: int) -> list[Passage]:
    """Draw n passages. Raises ValueError if there are fewer."""
    if len(passages) < n:
        raise ValueError(f"{n} passages requested, but the documents give {len(passages)}")
    return random.Random(seed).sample(passages, n)
