"""Copies of dictionaries with something changed."""

import hashlib
from collections.abc import Sequence
from typing import Any

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Sources


def copied(dictionary: Dictionary, **changes: Any) -> Dictionary:
    """Return a copy with sources, grown atoms and labels; ``changes`` are arguments of ``Dictionary``."""
    arguments = {
        "bias": dictionary.bias,
        "sources": dictionary.sources,
        "k": dictionary.k,
        "pursuit": dictionary.pursuit,
        "nonnegative": dictionary.nonnegative,
        "least_gain": dictionary.least_gain,
        "metadata": dictionary.metadata,
        "memory_budget": dictionary.memory_budget,
        "grown": None if dictionary.cosines is None else dictionary.grown_atoms,
        "labels": dictionary.relabelled,
    }
    return Dictionary(dictionary.atoms, **(arguments | changes))


def as_matching_pursuit(dictionary: Dictionary) -> Dictionary:
    """Return a copy that is encoded by plain matching pursuit, of as many steps, and not pruned."""
    return copied(dictionary, pursuit="mp", least_gain=0.0)


def without_prompts(dictionary: Dictionary) -> Dictionary:
    """Return a copy without any text; the metadata have the first half of each prompt's SHA-256 instead."""
    sources, labels = dictionary.sources, dictionary.relabelled
    hashes = {}
    if dictionary.prompts is not None:
        hashes["prompt_hashes"] = _hashes(dictionary.prompts)
    if labels is not None and labels.prompts is not None:
        hashes["label_prompt_hashes"] = _hashes(labels.prompts)
    return copied(
        dictionary,
        sources=None if sources is None else Sources(sources.table, sources.dataset),
        labels=None if labels is None else labels._replace(prompts=None),
        metadata=dictionary.metadata | hashes,
    )


def _hashes(prompts: Sequence[Prompt]) -> list[str]:
    """Hash what the model read up to the token, and the token."""
    return [hashlib.sha256((prompt.before + prompt.token).encode()).hexdigest()[:32] for prompt in prompts]
