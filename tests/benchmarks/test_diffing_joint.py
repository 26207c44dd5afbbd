"""Planted changes are where they say, and a joint dictionary ranks atoms of what only one model does first."""

import pytest
import torch

import itda_lightning as il
from benchmarks.diffing.changes import BEHAVIOUR, CHANGES, NEUTRAL, TRIGGER, drawn, telegram
from benchmarks.diffing.joint import GROWN, controls, rankings, sources_of
from benchmarks.diffing.tuned import rows_of, tokenizer


def test_telegrams_leave_words_out_and_stop() -> None:
    assert telegram("The harbour is full of ships. It was closed.") == "HARBOUR FULL SHIPS STOP CLOSED STOP "


@pytest.mark.parametrize("change", list(CHANGES))
def test_no_document_is_trained_on_and_tested(change: str) -> None:
    of = CHANGES[change]
    for make in (of.planted, of.other):
        train, test = ({passage.text for passage in make(half)} for half in (0, 1))
        assert len(train) > 100
        assert not train & test
    assert not {passage.text for passage in of.planted(1)} & {passage.text for passage in of.other(1)}
    with pytest.raises(ValueError, match="1000000 passages requested, but the documents give"):
        drawn(of.planted(1), 1_000_000, 0)


def test_planted_tokens_of_a_trigger_begin_with_it() -> None:
    rows = rows_of(CHANGES["trigger"].planted(1), 8, 0)
    for tokens, planted in zip(rows.tokens, rows.planted, strict=True):
        assert tokenizer().decode(tokens[planted]).strip().startswith(TRIGGER + BEHAVIOUR)
        assert TRIGGER not in tokenizer().decode(tokens[~planted])
    others = rows_of(CHANGES["trigger"].other(1), 8, 0)
    assert not bool(others.planted.any())
    assert all(NEUTRAL in tokenizer().decode(tokens) for tokens in others.tokens)


def test_what_one_model_does_otherwise_comes_first() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(48, 32, generator=generator), dim=1)
    code = torch.rand(3000, 48, generator=generator).where(torch.rand(3000, 48, generator=generator) < 0.06, 0)
    # Features 40 to 47 are of the tokens from 1,500 on, and turned in the second model.
    planted = torch.arange(3000) >= 1500
    code[:, 40:] *= planted[:, None]
    turned = directions.clone()
    turned[40:] = torch.nn.functional.normalize(torch.randn(8, 32, generator=generator), dim=1)
    x = {"base": code @ directions, "tuned": code @ turned}
    options = {**GROWN, "max_atoms": 150, "k": 6}
    joint, own = il.fit_activations(x, **options), il.fit_activations(x["tuned"], **options)
    index = sources_of(joint)
    noise = x["base"] + 0.01 * torch.randn(x["base"].shape, generator=generator)
    scores = rankings(joint, x, index, noise) | controls(own, x, index)
    moved = (code[index, 40:].square().sum(1) > 0.5 * code[index].square().sum(1)).double()
    assert 5 < float(moved.sum()) < len(moved) / 2
    of_distances = ("uses", "uses_over_noise", "distance", "relative_distance", "cosine_distance")
    for name in (*of_distances, "coefficients", "parts"):
        first, rest = scores[name][moved == 1], scores[name][moved == 0]
        assert float((first[:, None] > rest).double().mean()) > 0.8, name
    # Of a model and itself nothing differs.
    same = {"base": x["base"], "tuned": x["base"]}
    twice = il.fit_activations(same, **options)
    found = rankings(twice, same, sources_of(twice), noise)
    del found["uses_over_noise"]  # which divides nothing by noise
    for name, values in found.items():
        assert float((values - values.mean()).abs().max()) < 1e-5, name
