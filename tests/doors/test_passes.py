"""How often the model reads each held-out row while a fit is made, evaluated, shown and compared."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch

from itda_lightning import compare
from itda_lightning.comparison.bench import Bench
from itda_lightning.evaluate import evaluate
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.page import page
from tests.runs import CONTEXT, HOOK, OTHER_HOOK, fit_tiny

LOSS_ROWS = 6


@pytest.fixture
def passes(monkeypatch) -> Counter[bytes]:
    """Count the passes of every row, by its tokens."""
    counted: Counter[bytes] = Counter()
    forward = torch.nn.Embedding.forward

    def counting(self: torch.nn.Embedding, tokens: torch.Tensor) -> torch.Tensor:
        counted.update(row.numpy().tobytes() for row in tokens.reshape(-1, tokens.shape[-1]))
        return forward(self, tokens)

    monkeypatch.setattr(torch.nn.Embedding, "forward", counting)
    return counted


@pytest.fixture
def of_rows(passes) -> Callable[..., list[int]]:
    """Do something; return how often each held-out row of a run was read meanwhile."""

    def counts(run, do: Callable[[], object]) -> list[int]:
        passes.clear()
        do()
        rows = data_for(load_dictionary(run, HOOK), None, HOOK).rows("heldout")
        return [passes[row.numpy().tobytes()] for row in rows.tokens]

    return counts


@pytest.mark.parametrize("hooks", [(HOOK,), (OTHER_HOOK, HOOK)], ids=["one", "two"])
def test_what_one_pass_gave_no_other_is_made_for(hooks, of_rows, tiny_model_dir, prose_file, tmp_path, monkeypatch):
    run = tmp_path / "run"
    read = of_rows(run, lambda: fit_tiny(run, tiny_model_dir, prose_file, *hooks, cache_dir=tmp_path / "cache"))
    others = len(read) - LOSS_ROWS
    assert read == [1] * len(read)

    # The model alone once, reconstructed and ablated at every hook point; variances are of the activations of the fit.
    read = of_rows(run, lambda: evaluate(str(run), device="cpu", tokens=LOSS_ROWS * CONTEXT))
    assert read == [1 + 2 * len(hooks)] * LOSS_ROWS + [0] * others

    assert of_rows(run, lambda: page(str(run), HOOK, str(tmp_path / "page.html"), device="cpu")) == [0] * len(read)

    # The model alone and ablated once, and with the reconstructions of each of two entries.
    monkeypatch.setattr(Bench, "_harvest_seconds_each", 0.001)  # else a few rows are harvested for their time
    options = [f"--loss_tokens={LOSS_ROWS * CONTEXT}", "--controls=[random]", "--latents=false"]
    options += [f"--data.hook_names=[{HOOK}]", f"--directory={tmp_path / 'compared'}", "--data.device=cpu"]
    assert of_rows(run, lambda: compare.main([str(run), *options])) == [4] * LOSS_ROWS + [0] * others


def test_without_a_cache_every_command_reads_held_out_rows_once(of_rows, tiny_run, tmp_path):
    read = of_rows(tiny_run, lambda: page(str(tiny_run), output=str(tmp_path / "page.html"), device="cpu"))
    assert read == [1] * len(read)
