"""Fine-tune language models of several seeds as text classifiers, and keep what they make of unmodified texts.

    python -m benchmarks.resi.classifiers --directory runs/layer-matching-large [--output runs/resi]

Five models per group of ``variants.py``, each from the first blocks of another seed of
``benchmarks/layer_matching/train.py``, on the same texts in another order. A linear head reads the last token. Kept are
the activations of the last token after the last layer norm (what the head reads, as in ReSi) of texts that were not
trained on; in the groups of the shortcut they begin with the token of any class. A model that is there is not trained
again.
"""

import itertools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from jsonargparse import auto_cli
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, GPT2Model

from benchmarks.resi.variants import (
    VARIANTS,
    Labelled,
    Rows,
    Variant,
    changed,
    classes_of,
    load_news,
    rows_of,
    shortcuts,
)
from itda_lightning.machine.atomic_files import write_file

BLOCKS = 4  # of the eight of the language models: half the time
TRAINED, COMPARED, SOURCES = 256, 512, 1024  # texts that are trained on, compared, and sources of dictionaries
BATCH, EPOCHS, LEARNING_RATE, WARM_UP = 32, 8, 1e-3, 0.1


class Kept(NamedTuple):
    """The record of a classifier.

    Attributes:
        compared: activations of the compared texts.
        sources: those of texts for dictionaries.
        facts: of the training.
    """

    compared: Float[Tensor, "texts d"]
    sources: Float[Tensor, "others d"]
    facts: dict[str, Any]


class Classifier(nn.Module):
    """A language model with a linear head on its last token."""

    def __init__(self, directory: Path, classes: int) -> None:
        super().__init__()
        self.body = GPT2Model.from_pretrained(directory, n_layer=BLOCKS)
        self.head = nn.Linear(self.body.config.n_embd, classes)

    def activations(self, tokens: Tensor) -> Float[Tensor, "texts d"]:
        """Return what the head reads."""
        last: Tensor = self.body(input_ids=tokens, use_cache=False).last_hidden_state[:, -1]
        return last

    def forward(self, tokens: Tensor) -> Float[Tensor, "texts classes"]:
        """Return the logits of the classes."""
        logits: Tensor = self.head(self.activations(tokens))
        return logits


def train(model: Classifier, rows: Rows, seed: int) -> None:
    """Train by AdamW with a rate that rises and falls, reading the texts in an order of the seed."""
    steps = EPOCHS * (len(rows.labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARM_UP)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for chosen in torch.randperm(len(rows.labels), generator=generator).split(BATCH):
            nn.functional.cross_entropy(model(rows.tokens[chosen]), rows.labels[chosen]).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()


@torch.no_grad()
def read(model: Classifier, rows: Rows) -> tuple[Float[Tensor, "texts d"], float]:
    """Return the activations and the share of texts that are classified rightly."""
    activations = torch.cat([model.activations(part) for part in rows.tokens.split(128)])
    return activations, float((model.head(activations).argmax(1) == rows.labels).double().mean())


def keep(one: Kept, file: Path) -> None:
    """Write what is kept of a classifier."""
    tensors = {"compared": one.compared.contiguous(), "sources": one.sources.contiguous()}
    write_file(file, lambda path: save_file(tensors, path, {"facts": json.dumps(one.facts)}))


def kept(place: Path, name: str, seed: int) -> Kept:
    """Read what is kept of a classifier."""
    with safe_open(place / f"{name}-{seed}.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["facts"])
        return Kept(file.get_tensor("compared"), file.get_tensor("sources"), facts)


def make(base: Path, news: Labelled, variant: Variant, seed: int) -> Kept:
    """Train one classifier and read unmodified texts with it."""
    start = time.perf_counter()
    tokenizer = AutoTokenizer.from_pretrained(base)
    ends = (0, TRAINED, TRAINED + COMPARED, TRAINED + COMPARED + SOURCES)
    parts = [news.part(*part) for part in itertools.pairwise(ends)]
    classes = classes_of(news)
    rows = []
    for number, part in enumerate(parts):
        share = variant.shortcut if number == 0 else 0.0
        letters = None if variant.shortcut is None else shortcuts(part.labels, classes, share or 0.0, seed=number)
        rows.append(rows_of(changed(part, variant) if number == 0 else part, tokenizer, letters))
    torch.manual_seed(seed)
    model = Classifier(base, classes)
    train(model.train(), rows[0], seed)
    model.eval()
    _, fitted = read(model, rows[0])
    compared, right = read(model, rows[1])
    sources, _ = read(model, rows[2])
    facts = {"seed": seed, "training_accuracy": fitted, "accuracy": right, "seconds": time.perf_counter() - start}
    return Kept(compared, sources, facts)


def main(
    directory: Path = Path("runs/layer-matching-large"),
    output: Path = Path("runs/resi"),
    seeds: int = 5,
    threads: int = 0,
) -> None:
    """Train the missing classifiers.

    Args:
        directory: of the language models, as ``benchmarks.layer_matching.train`` made them.
        output: directory of what is kept.
        seeds: that each group has.
        threads: of the processor; 0 for torch's default.
    """
    if threads:
        torch.set_num_threads(threads)
    news = load_news()
    output.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        steps = json.loads((directory / f"seed-{seed}" / "training.json").read_text())["steps"]
        for name, variant in VARIANTS.items():
            file = output / f"{name}-{seed}.safetensors"
            if not file.exists():
                one = make(directory / f"seed-{seed}" / f"step-{steps}", news, variant, seed)
                keep(one, file)
                print(f"{name}, seed {seed}: {one.facts}", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
