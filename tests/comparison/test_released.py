"""A pretrained SAE by release and sae_id, from the hub's cache to its figures, by SAELens's own list and loader."""

import hashlib
import math
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from transformers import LlamaConfig, LlamaForCausalLM

from itda_lightning import ActivationsDataModule
from itda_lightning.compare import main
from itda_lightning.errors import InputError
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import MEASURES, Comparison, Row
from itda_lightning.saelens.released import cached_files
from tests.runs import CONTEXT
from tests.tiny_model import BOS, EOS, VOCABULARY

RELEASE, SAE_ID = "gemma-scope-2b-pt-res", "layer_20/width_16k/average_l0_71"
HOOK = "blocks.20.hook_resid_post"
ROWS = 3  # of a held-out document each
# SAELens takes the widths from the names: of Gemma 2 2B and of width_16k.
D_IN, D_SAE, THRESHOLD = 2304, 16384, 200.0


def put_into_cache(hub: Path, repo_id: str, name: str, source: Path) -> None:
    """Lay out a file as the hub's client does: a blob by its hash, a commit as a branch, a link in its snapshot."""
    repository = hub / f"models--{repo_id.replace('/', '--')}"
    commit = hashlib.sha1(repo_id.encode()).hexdigest()
    blob = repository / "blobs" / hashlib.sha256(name.encode()).hexdigest()
    link = repository / "snapshots" / commit / name
    for path in (blob, link, repository / "refs" / "main"):
        path.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, blob)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (repository / "refs" / "main").write_text(commit)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def gemma_scope(hub, tmp_path) -> str:
    """An SAE whose latents are the axes and their opposites above a threshold, as Gemma Scope's files hold it."""
    decoder = np.zeros((D_SAE, D_IN), dtype=np.float16)  # the files of the release are float32
    axes = np.arange(D_IN)
    decoder[axes, axes], decoder[D_IN + axes, axes] = 1, -1
    threshold = np.full(D_SAE, THRESHOLD, dtype=np.float32)
    biases = {"b_enc": np.zeros(D_SAE, dtype=np.float32), "b_dec": np.zeros(D_IN, dtype=np.float32)}
    np.savez(tmp_path / "params.npz", w_enc=decoder.T, w_dec=decoder, threshold=threshold, **biases)
    put_into_cache(hub, "google/gemma-scope-2b-pt-res", f"{SAE_ID}/params.npz", tmp_path / "params.npz")
    return f"{RELEASE}:{SAE_ID}"


@pytest.fixture(scope="module")
def as_wide_as_gemma(tiny_model_dir, tmp_path_factory) -> Path:
    """A random language model of the width and with the layer of the SAE, and little else."""
    path = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": D_IN, "num_hidden_layers": 21, "head_dim": 8, "intermediate_size": 8}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1, "tie_word_embeddings": True}
    tokens = {"vocab_size": VOCABULARY, "max_position_embeddings": 128, "bos_token_id": BOS, "eos_token_id": EOS}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**sizes, **heads, **tokens, initializer_range=0.2)).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny_model_dir / name, path)
    return path


@pytest.fixture
def compared(config_of, data_section, as_wide_as_gemma, tmp_path):
    """Compares an entry on the wide model; returns its row, after the data module on which it was measured."""
    changes: dict[str, Any] = {"model": str(as_wide_as_gemma), "hook_names": [HOOK]}
    changes |= {"packing": "one_per_document"}  # so that a few rows are of several documents
    changes |= {"training_tokens": CONTEXT, "validation_tokens": ROWS * CONTEXT, "cache_dir": str(tmp_path / "cache")}

    def compare(**entry: object) -> tuple[ActivationsDataModule, Row]:
        directory = tmp_path / "out"
        config = config_of(directory, {"Gemma Scope": entry}, changes, loss_tokens=ROWS * CONTEXT, controls=False)
        assert main(["--config", str(config)]) == 0
        (row,) = from_json((directory / "comparison.json").read_text(), Comparison).rows
        return ActivationsDataModule(**(data_section | changes)), row

    return compare


def test_a_release_is_loaded_from_the_cache_and_measured(gemma_scope, compared):
    data, row = compared(load=gemma_scope, same_model=True)
    assert (row.kind, row.architecture, row.width, row.failure) == ("sae", "jumprelu", D_SAE, None)
    assert tuple(row.measures) == MEASURES
    assert row.cost.parameters == 2 * D_SAE * D_IN + 2 * D_SAE + D_IN
    assert (row.cost.seconds, row.cost.activations_seen) == (None, None)
    x = torch.cat([batch.x for batch in data.heldout_batches(HOOK)]).double()
    kept = x.abs() > THRESHOLD
    assert row.value("l0") == pytest.approx(float(kept.sum(1).double().mean()))
    assert 100 < row.value("l0") < 2000
    left = (x * ~kept).square().sum() / (x - x.mean(0)).square().sum()
    assert row.value("fvu") == pytest.approx(float(left), rel=1e-4)
    assert 0 < row.value("ce_loss_without_sae") < math.inf
    assert row.value("kl_div_with_sae") > 0


def test_what_the_cache_lacks_is_refused(hub, compared):
    text = rf"the release '{RELEASE}' with sae_id '{SAE_ID}' cannot be loaded .*: check both names, and that the hub is"
    with pytest.raises(InputError, match=text):
        compared(load=f"{RELEASE}:{SAE_ID}", same_model=True)


def test_files_beside_the_weights_are_found_without_the_network(hub, tmp_path):
    name = "blocks.8.hook_resid_pre"
    assert cached_files(f"gpt2-small-res-jb:{name}", ("cfg.json",)) == []
    (tmp_path / "cfg.json").write_text('{"total_training_tokens": 300000000}')
    put_into_cache(hub, "jbloom/GPT2-Small-SAEs-Reformatted", f"{name}/cfg.json", tmp_path / "cfg.json")
    (found,) = cached_files(f"gpt2-small-res-jb:{name}", ("runner_cfg.json", "cfg.json"))
    assert "total_training_tokens" in found.read_text()
    for reference in ("gpt2-small-res-jb:no such id", "not a name!:x", "a:b"):
        assert cached_files(reference, ("cfg.json",)) == []
