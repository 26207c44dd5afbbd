"""The delphi command: held-out tokens or other texts, in a directory that holds nothing but the hook point."""

import json

import pytest
import torch

from itda_lightning.delphi import delphi
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from tests.evaluation.test_delphi_cache import read_as_delphi_does
from tests.runs import CONTEXT, HOOK, VALIDATION_ROWS

# Of delphi's CacheConfig of 2025, whose names have changed.
KEYS = {"dataset_repo", "dataset_split", "dataset_name", "dataset_column", "batch_size", "cache_ctx_len", "n_tokens"}
EARLIER = {"dataset_row", "ctx_len"}


def test_it_writes_the_codes_of_held_out_tokens(tiny_run, prose_file, tmp_path, capsys):
    delphi(str(tiny_run), str(tmp_path / "out"), device="cpu", splits=3)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [HOOK]
    config = json.loads((tmp_path / "out" / HOOK / "config.json").read_text())
    assert set(config) == KEYS | EARLIER | {"n_splits", "model_name"}
    assert config["dataset_repo"] == prose_file.name  # local paths stay at home
    assert config["ctx_len"] == config["cache_ctx_len"] == CONTEXT
    assert (config["n_tokens"], config["n_splits"]) == (VALIDATION_ROWS * CONTEXT, 3)
    dictionary = load_dictionary(tiny_run)
    data = data_for(dictionary, None, HOOK, "cpu")
    read = read_as_delphi_does(tmp_path / "out" / HOOK)
    assert (read.tokens == data.rows("heldout").tokens.numpy()).all()
    x = torch.cat([x for x, _ in data.heldout_batches(HOOK)])
    counts = (dictionary.encode(x).to_dense(dictionary.n_atoms) != 0).sum(0)
    assert {latent: len(values) for latent, (_, values) in read.uses.items()} == {
        latent: count for latent, count in enumerate(counts.tolist()) if count
    }
    assert f"wrote {tmp_path / 'out'}: {int(counts.sum()):,} uses of" in capsys.readouterr().out


def test_other_texts_can_be_encoded(tiny_run, prose, tmp_path):
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in prose[:3]))
    delphi(str(tiny_run), str(tmp_path / "out"), device="cpu", texts=str(tmp_path / "texts.jsonl"), splits=1)
    read = read_as_delphi_does(tmp_path / "out" / HOOK)
    config = json.loads((tmp_path / "out" / HOOK / "config.json").read_text())
    assert read.tokens.size == config["n_tokens"] > 0
    assert read.uses


def test_bad_input_leaves_nothing(tiny_run, tmp_path):
    with pytest.raises(InputError, match="latents do not fill 1000 files"):
        delphi(str(tiny_run), str(tmp_path / "out"), device="cpu", splits=1000)
    with pytest.raises(InputError, match="there is no"):
        delphi(str(tiny_run), str(tmp_path / "out"), device="cpu", texts=str(tmp_path / "none.jsonl"))
    assert not list(tmp_path.iterdir())
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="out exists already"):
        delphi(str(tiny_run), str(tmp_path / "out"), device="cpu")
