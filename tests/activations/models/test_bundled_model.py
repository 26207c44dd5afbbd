"""The real model: why position 0 is left out, and that its tokenizer's characters are found again."""

from pathlib import Path

import pytest
import torch

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.dictionary.sources import Source

HOOK = "blocks.14.hook_resid_post"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(bundled_model_dir: Path, prose_file: Path) -> ActivationsDataModule:
    return ActivationsDataModule(
        str(bundled_model_dir),
        [HOOK],
        str(prose_file),
        device="cpu",
        context_size=32,
        training_tokens=64,
        validation_tokens=64,
        batch_size=64,
        exclude_first_position=False,
        exclude_special_tokens=False,
    )


def test_position_0_dwarfs_all_others(data: ActivationsDataModule) -> None:
    assert data.widths == {HOOK: 576}
    (batch,) = data.train_dataloader()
    norms = batch.activations[HOOK].norm(dim=1)
    first = batch.table[:, 2] == 0
    assert first.sum() == 2
    assert norms[first].min() > 50 * norms[~first].max()
    kept = data.with_settings(exclude_first_position=True)
    kept.language_model = data.language_model
    (batch,) = kept.train_dataloader()
    assert len(batch) == 62
    torch.testing.assert_close(batch.activations[HOOK].norm(dim=1), norms[~first], rtol=1e-4, atol=1e-2)


def test_prompts_are_what_its_tokenizer_reads_back(data: ActivationsDataModule) -> None:
    data = data.with_settings(training_tokens=4000)
    rows, texts = data.rows("train"), dict(data.documents.in_order())
    for row in range(len(rows)):
        tokens = rows.tokens[row].tolist()
        for position in range(1, rows.context_size):
            document, start, end = (int(part[row, position]) for part in (rows.document, rows.start, rows.end))
            if start < end:
                assert texts[document][start:end] == data.tokenizer.decode(tokens[position : position + 1])
    table = rows.source_table(torch.arange(len(rows)), torch.full((len(rows),), 31))
    for line in table.tolist():
        prompt = rows.prompt(Source(*line))
        assert prompt.before + prompt.token == data.tokenizer.decode(rows.tokens[line[1]].tolist())
        assert prompt.after == ""


def test_a_bundled_name_is_its_directory(bundled_model_dir: Path, data: ActivationsDataModule) -> None:
    named = data.with_settings(model="bundled:smollm2-135m")
    assert named.model_name.fingerprint() == data.model_name.fingerprint()
    assert (named.tokenizer.bos_token_id, named.tokenizer.eos_token_id) == (1, 2)
