"""The joint study reads the activations of ``il.aligned_activations``, and its figures are those of plain sums."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import itda_lightning as il
from benchmarks.joint import activations, choices, entries, settings
from benchmarks.joint.activations import AlignedText
from benchmarks.joint.entries import Entries, Entry
from benchmarks.joint.losses import Losses, StreamLosses
from benchmarks.joint.measures import HeldOut, kept_sums
from benchmarks.joint.settings import BUDGETS, Setting, Text
from benchmarks.transcoders.losses import first
from itda_lightning.activations.text.rows import Rows
from tests.across_models.retokenised import cut_merges
from tests.across_models.study import HOOKS

TOKENS = 96 * 16


@pytest.fixture
def text(tiny_model_dir: Path, prose_file: Path, tmp_path: Path) -> Text:
    other = cut_merges(tiny_model_dir, tmp_path / "other", 0.3)
    models = {"one": (str(tiny_model_dir), HOOKS[:2]), "other": (str(other), HOOKS[:1])}
    return Text(tmp_path / "text", tmp_path / "activations", str(prose_file), models, TOKENS, context_size=16)


@pytest.fixture
def aligned(text: Text, monkeypatch: pytest.MonkeyPatch) -> AlignedText:
    """The text of the fixture, harvested 100 positions at a time."""
    monkeypatch.setattr(activations, "SLICE", 100)
    monkeypatch.setattr(settings, "HELD_OUT", 256)
    return text.aligned


def test_activations_are_those_of_aligned_activations(
    aligned: AlignedText, text: Text, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"tokens": TOKENS, "context_size": 16, "device": "cpu", "cache_dir": str(tmp_path)}
    expected = il.aligned_activations(text.models, text.dataset, **options)
    n = len(expected.documents)
    assert expected.aligned_by == "characters"
    assert n > 300
    aligned.arrays("one", "train", 150)
    there = aligned.harvests()["one-train"]["positions"]
    assert 150 <= there < n
    # What is there is not read again.
    read = []
    harvest = activations.harvest
    monkeypatch.setattr(activations, "harvest", lambda *arguments: read.append(1) or harvest(*arguments))
    for model, hooks in (("one", HOOKS[:2]), ("other", HOOKS[:1])):
        found = aligned.arrays(model, "train", n)
        for hook in hooks:
            np.testing.assert_allclose(found[hook], expected.arrays[f"{model} {hook}"].numpy(), atol=1e-5)
    harvested = {name: of["positions"] for name, of in aligned.harvests().items()}
    assert harvested["one-train"] >= n
    assert 100 * len(read) < sum(harvested.values()) - there + 200
    with pytest.raises(ValueError, match=f"the text has {n:,} aligned positions"):
        aligned.arrays("one", "train", n + 1)


@pytest.fixture
def held_out(aligned: AlignedText, text: Text) -> HeldOut:
    sites = {"early": ("one", HOOKS[0]), "late": ("one", HOOKS[1]), "elsewhere": ("other", HOOKS[0])}
    return HeldOut(Setting("three sites", sites, text), Losses(text, 6))


def noisy(scale: float) -> Entry:
    """Return an entry that finds the activations but for their first dimension, which it multiplies."""

    def explain(x: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        found = {site: torch.cat([scale * of[:, :1], of[:, 1:]], dim=1) for site, of in x.items()}
        return found, torch.full((len(next(iter(x.values()))),), 3.0)

    return Entry(explain, 1.5)


def test_figures_are_those_of_plain_sums(held_out: HeldOut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {
        scale: kept_sums(tmp_path / f"{scale}.json", held_out, partial(noisy, scale), "abc")
        for scale in (1.0, 0.5, -1.0)
    }
    exact, half, wrong = (held_out.figures(row, None) for row in rows.values())
    assert (half["seconds"], half["l0 per layer"], half["commit"]) == (1.5, 3.0, "abc")
    less = held_out.figures(rows[-1.0], rows[0.5])
    for site, x in held_out.x.items():
        assert exact[site]["FVU"] == [0.0, 0.0]
        assert exact[site]["CE increase"][0] == pytest.approx(0, abs=1e-6)
        assert exact[site]["KL"][0] == pytest.approx(0, abs=1e-6)
        x = x.double()
        whole = float((x - x.mean(0)).square().sum())
        assert half[site]["FVU"][0] == pytest.approx(float((x[:, 0] / 2).square().sum()) / whole, rel=1e-6)
        assert wrong[site]["KL"][0] > half[site]["KL"][0] > 1e-9
        for name, (value, error) in less[f"{site}, less"].items():
            assert value == pytest.approx(wrong[site][name][0] - half[site][name][0], rel=1e-4, abs=1e-9)
            # Both are of the same documents.
            assert error <= (wrong[site][name][1] + half[site][name][1]) * (1 + 1e-9)
    # What is measured is not measured again: neither rows nor losses of the same reconstructions.
    monkeypatch.setattr(StreamLosses, "measure", None)
    assert kept_sums(tmp_path / "0.5.json", held_out, lambda: noisy(0.0), "later") == rows[0.5]
    again = kept_sums(tmp_path / "again.json", held_out, lambda: noisy(0.5), "abc")
    assert again == rows[0.5]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_losses_after_a_layer_are_those_of_the_whole_model(kind: str) -> None:
    torch.manual_seed(0)
    size = {"vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1}
    model = (
        LlamaForCausalLM(
            LlamaConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=4, num_attention_heads=2, **size)
        )
        if kind == "llama"
        else GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=4, n_head=2, n_positions=12, **size))
    ).eval()
    tokens, kept = torch.randint(50, (6, 9)), torch.rand(6, 9) < 0.8
    zeros = torch.zeros(6, 9, dtype=torch.int64)
    document = torch.arange(6)[:, None].expand(6, 9).contiguous()
    rows = Rows(tokens, document, zeros, zeros, kept, 0, "tests", dict.fromkeys(range(6), ""), {})
    new = torch.randn(6, 9, 16)
    block = (model.model.layers if kind == "llama" else model.transformer.h)[1]
    with torch.no_grad():
        rise, kl = StreamLosses(model, rows, 1).measure(new)
        own = torch.log_softmax(model(input_ids=tokens).logits, dim=-1)
        handle = block.register_forward_hook(lambda _, __, output: torch.where(kept[..., None], new, first(output)))
        changed = torch.log_softmax(model(input_ids=tokens).logits, dim=-1)
        handle.remove()
    differences = (own - changed)[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
    assert rise.value == pytest.approx(float(differences[kept[:, :-1]].mean()), rel=1e-4)
    assert kl.value == pytest.approx(float((own.exp() * (own - changed)).sum(-1)[kept].mean()), rel=1e-4)


def test_entries_have_a_code_for_all_sites_or_one_for_each(
    aligned: AlignedText, text: Text, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUDGETS, "T", 256)
    for name, value in (("CALIBRATION", 64), ("ATOMS", 40)):
        monkeypatch.setattr(entries, name, value)
    monkeypatch.setitem(entries.TRAININGS, "T", entries.Training(2, 3e-3, 64))
    sites = {"early": ("one", HOOKS[0]), "elsewhere": ("other", HOOKS[0])}
    of_setting = Entries(Setting("two sites", sites, text, k=4))
    x = {site: torch.from_numpy(aligned.arrays(model, "heldout")[hook][:50]) for site, (model, hook) in sites.items()}
    made = {name: make() for name, make in of_setting.makers(["T"]).items()}
    assert len(made) == 8
    left = {}
    for name, entry in made.items():
        found, atoms = entry.explain(x)
        assert {site: of.shape for site, of in found.items()} == {site: of.shape for site, of in x.items()}
        assert float(atoms.mean()) <= 8
        left[name] = {site: float((of - x[site]).detach().double().square().sum()) for site, of in found.items()}
    for name in ("joint ITDA", "joint ITDA, refined"):
        for site in x:
            assert left[f"{name}, own coefficients"][site] <= left[name][site] * (1 + 1e-5)
    # SAEs have as many latents as the pruned codes have atoms, on the activations that nothing was trained on.
    for names in (["early"], ["early", "elsewhere"]):
        data = of_setting.data(names, "T")
        data.sites = of_setting.sites if len(names) > 1 else data.sites
        (calibration,) = data.stored("heldout").read_at(torch.arange(64)).values()
        assert int((of_setting.sae(names, "T").encode(calibration) > 0).sum()) == 64 * 4 * len(names)
    # A dictionary of one site is that of its activations.
    alone = of_setting.itda(["early"], refined=False)
    torch.testing.assert_close(made["ITDA of each site"].explain(x)[0]["early"], alone(x["early"]))
    # All sites weigh alike by distance, or by its mean square.
    scaled = choices.scales(of_setting)
    arrays = of_setting.data(of_setting.names, "T").arrays
    for name, statistic in (("median distance from the mean is 1", np.median), ("mean square distance", _rms)):
        ((_, found_sites),) = [(key, of) for key, of in scaled.items() if key.startswith(name)]
        for scaled_site in found_sites:
            distances = np.linalg.norm(arrays[scaled_site.hook_name] - arrays[scaled_site.hook_name].mean(0), axis=1)
            assert float(statistic(distances)) * scaled_site.scale == pytest.approx(1, rel=0.05), name


def _rms(distances: np.ndarray) -> float:
    return float(np.sqrt(np.square(distances).mean()))
