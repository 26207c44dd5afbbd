"""Data of the probes: labelled texts of sae-probes, drawn as it draws them, and their activations, cached on disk."""

import difflib
import importlib
import json
import logging
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Float
from sae_lens.util import extract_stop_at_layer_from_tlens_hook_name
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from tqdm.auto import tqdm

from itda_lightning.activations.bundled import cache_directory
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.text.tokenizer import special_tokens
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.errors import InputError
from itda_lightning.machine.digests import reason, warn_unsigned
from itda_lightning.machine.made_once import hash_of
from itda_lightning.machine.paths import user_path
from itda_lightning.machine.signed_tensors import read_tensors, write_tensors

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
# The requirements of sae-probes (pandas<3, pyarrow<26, xgboost for GPUs) clash with this package's but are not needed.
REMEDY = "pip install 'itda-lightning[probes]' && pip install --no-deps sae-probes==0.4.2"
TEXTS_AT_A_TIME = 32


class ProbeDataset(NamedTuple):
    """The examples of one dataset that the draws use, each draw as indices of its training and of its test examples."""

    name: str
    texts: list[str]
    labels: np.ndarray
    draws: tuple[tuple[np.ndarray, np.ndarray], ...]


def sae_probes(module: str = "utils_data") -> Any:
    """Import a module of sae-probes, or raise InputError if it is not installed; reading its datasets takes seconds."""
    try:
        with warnings.catch_warnings():  # it silences warnings of the whole process
            return importlib.import_module(f"sae_probes.{module}")
    except ImportError as error:
        raise InputError(
            f"sparse probing needs sae-probes, which cannot be imported ({error}): run `{REMEDY}`"
        ) from error


def load_datasets(settings: ProbeSettings) -> list[ProbeDataset]:
    """Load the datasets of the settings and draw their examples, half of either class.

    Raises:
        InputError: sae-probes is not installed, an unknown dataset, one with fewer examples than the settings need.
    """
    data = sae_probes()
    known: list[str] = data.get_numbered_binary_tags()
    names = tuple(known) if settings.datasets is None else settings.datasets
    for name in names:
        if name not in known:
            similar = difflib.get_close_matches(name, known, n=4, cutoff=0.3) or known[:4]
            raise InputError(f"sae-probes has no dataset {name!r} of two classes: did you mean one of {similar}?")
    return [_draw(name, settings, data) for name in names]


def _draw(name: str, settings: ProbeSettings, data: Any) -> ProbeDataset:
    labels = data.get_yvals(name)
    # sae-probes takes the larger half of an odd number of examples from the second class.
    needed = -(-settings.train_examples // 2) - (-settings.test_examples // 2)
    smaller = int(np.bincount(labels, minlength=2).min())
    if smaller < needed:
        raise InputError(
            f"the dataset {name} has {smaller} examples of its smaller class, but {settings.train_examples} training "
            f"and {settings.test_examples} test examples need {needed}: lower train_examples or test_examples, or "
            "leave it out"
        )
    draws = [
        data.get_train_test_indices(labels, settings.train_examples, settings.test_examples, seed=seed)
        for seed in range(settings.seeds)
    ]
    used = np.unique(np.concatenate([part for draw in draws for part in draw]))
    texts = data.read_numbered_dataset_df(name)["prompt"].iloc[used].astype(str).tolist()
    places = tuple((np.searchsorted(used, train), np.searchsorted(used, test)) for train, test in draws)
    return ProbeDataset(name, texts, labels[used], places)


def hash_of_examples(datasets: list[ProbeDataset]) -> str:
    """Return the hash of the examples of every draw, by which scores of two entries are known to be of the same."""
    draws = [[[part.tolist() for part in draw] for draw in dataset.draws] for dataset in datasets]
    return hash_of([[dataset.name, dataset.texts, draw] for dataset, draw in zip(datasets, draws, strict=True)])


def cached_activations(
    language_model: LanguageModel, hook_name: str, datasets: list[ProbeDataset], settings: ProbeSettings
) -> list[Float[Tensor, "examples ..."]]:
    """Load the activations of the last token of every text from the cache, or compute and cache them.

    Those of a hook point with heads are (examples, heads, d_head).

    Raises:
        InputError: a cache file that is damaged or cannot be written; a tokenizer without BOS and EOS.
    """
    root = (user_path(settings.cache_dir) if settings.cache_dir else cache_directory()) / "probing"
    name = language_model.name
    facts = [FORMAT_VERSION, name.fingerprint(), name.loader, name.dtype, hook_name, settings.max_tokens]
    activations = []
    for dataset in tqdm(datasets, desc="Activations for probes", unit=" datasets"):
        key = xxhash.xxh3_64_hexdigest(json.dumps([*facts, dataset.texts]).encode())
        path = root / f"{dataset.name.replace(' ', '_')}-{key}.safetensors"
        if not path.exists():
            computed = last_token_activations(language_model, hook_name, dataset.texts, settings.max_tokens)
            write_tensors(path, {"activations": computed})
        try:
            tensors, _, signature = read_tensors(path)
            activations.append(tensors["activations"])
        except (SafetensorError, LookupError, ValueError, OSError) as error:
            raise InputError(f"{path} is truncated or foreign ({reason(error)}): remove it and run again") from error
        if signature == "none":
            warn_unsigned(path)
    return activations


@torch.inference_mode()
def last_token_activations(
    language_model: LanguageModel, hook_name: str, texts: list[str], max_tokens: int
) -> Float[Tensor, "texts ..."]:
    """Compute the activations of the last token of each text, as sae-probes does for the models that it can load.

    Texts begin with BOS and are cut on the left. So even a text of one token is not read at position 0, whose
    activation is unlike all others and never becomes an atom.

    Raises:
        InputError: a tokenizer without BOS and EOS.
    """
    tokenizer = language_model.tokenizer
    bos = special_tokens(tokenizer).bos
    # max_tokens is the limit, not the tokenizer's own.
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    rows = [torch.tensor([bos, *tokens[-(max_tokens - 1) :]]) for tokens in encoded]
    device = next(language_model.model.parameters()).device
    activations: dict[int, Tensor] = {}
    # By length, for little padding. It lies on the right, which a causal model does not see from the last token.
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    for start in range(0, len(order), TEXTS_AT_A_TIME):
        batch = order[start : start + TEXTS_AT_A_TIME]
        tokens = pad_sequence([rows[row] for row in batch], batch_first=True, padding_value=bos).to(device)
        cache = language_model.model.run_with_cache(
            tokens,
            names_filter=[hook_name],
            stop_at_layer=extract_stop_at_layer_from_tlens_hook_name(hook_name),
            prepend_bos=False,
        )[1]
        for place, row in enumerate(batch):
            activations[row] = cache[hook_name][place, len(rows[row]) - 1].float().cpu()
    return torch.stack([activations[row] for row in range(len(rows))])
