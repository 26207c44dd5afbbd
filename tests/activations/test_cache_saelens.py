"""SAELens's ActivationsStore reads caches of its dtypes and reports a missing column for others."""

from pathlib import Path
from typing import Any

import pytest
import torch
from sae_lens.training.activations_store import ActivationsStore

from itda_lightning.activations.cache import ActivationCache
from tests.activations.conftest import HOOK, MakeData


@pytest.fixture
def filled(make_data: MakeData, tmp_path: Path):
    def fill(dtype: str, **changes: Any) -> tuple[ActivationCache, torch.Tensor]:
        data = make_data(cache_dir=str(tmp_path), cache_dtype=dtype, **changes)
        data.prepare_data()
        cache = data.cache("train")
        assert cache is not None
        return cache, torch.cat([batch.activations[HOOK] for batch in data.train_dataloader()])

    return fill


def store(cache: ActivationCache, context_size: int) -> ActivationsStore:
    return ActivationsStore(
        model=None,
        dataset=None,
        streaming=False,
        hook_name=HOOK,
        hook_head_index=None,
        context_size=context_size,
        d_in=32,
        n_batches_in_buffer=20,
        total_training_tokens=1000,
        store_batch_size_prompts=10,
        train_batch_size_tokens=100,
        prepend_bos=False,
        normalize_activations="none",
        device=torch.device("cpu"),
        dtype="float32",
        cached_activations_path=str(cache.path),
    )


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_saelens_reads_the_same_activations(filled, dtype: str, first: bool) -> None:
    cache, ours = filled(dtype, exclude_first_position=first, prepend_bos=False, exclude_special_tokens=False)
    positions = 16 - first
    theirs = store(cache, positions)
    for start in range(0, 140, 10):
        activations, tokens = theirs.get_raw_llm_batch()
        assert activations.equal(ours[start * positions : (start + 10) * positions])
        assert tokens.equal(cache.rows.tokens[start : start + 10, int(first) :].flatten().float())
    assert next(theirs).shape == (100, 32)


def test_saelens_refuses_bfloat16_instead_of_reading_its_bits(filled) -> None:
    cache, _ = filled("bfloat16")
    with pytest.raises(ValueError, match=rf"Columns \['{HOOK}'\] not in the dataset"):
        store(cache, 15)


def test_saelens_is_told_of_another_context_size(filled) -> None:
    cache, _ = filled("float32")
    with pytest.raises(ValueError, match=r"does not match context_size \(16\) and d_in \(32\)"):
        store(cache, 16)
