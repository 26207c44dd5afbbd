"""Settings of a similarity study: what is out of range, and short names of hook points."""

import pytest

from itda_lightning import InputError
from itda_lightning.across_models.similarity_settings import ModelSettings, SimilaritySettings, summary_of
from tests.across_models.study import HOOKS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"models": []}, "there is nothing to compare: give at least one of models"),
        ({"models": [ModelSettings("A", run="x")] * 2}, r"several are called \['A'\]: rename them"),
        ({"measures": ["cka", "kernel"]}, r"measures must be some of \['jaccard', .* got \['cka', 'kernel'\]"),
        ({"measures": []}, "measures must be some of"),
        ({"measures": ["cka", "cka"]}, "each once"),
        ({"orders": -1}, "orders must be at least 0, got -1"),
        ({"anchors": 1}, "anchors must be at least 2, got 1"),
        ({"k": 0}, "k must be at least 1, got 0"),
        ({"sample": 11}, "sample must be at least 12, got 11: k is 10, and of all other tokens the share would always"),
        ({"candidates": 999}, "candidates must be at least 1,000, got 999: the queries are among the candidates"),
    ],
)
def test_settings_out_of_range(changes, message) -> None:
    with pytest.raises(InputError, match=message):
        SimilaritySettings(**({"models": [ModelSettings("A", run="x")], "directory": "d"} | changes))


@pytest.mark.parametrize(
    ("hook_names", "summary"),
    [
        (HOOKS, "blocks.*.hook_resid_post at 0, 1, 2"),
        (HOOKS[:1], HOOKS[0]),
        ([HOOKS[0], "blocks.0.hook_mlp_out"], f"{HOOKS[0]}, blocks.0.hook_mlp_out"),
        (["a", "b"], "a, b"),
    ],
)
def test_hook_points_in_few_words(hook_names, summary) -> None:
    assert summary_of(hook_names) == summary


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": " "}, "every one of models needs a name"),
        ({"name": "A"}, "'A' must have exactly one of run and model, got None and None"),
        ({"name": "A", "run": "x", "model": "y"}, "exactly one of run and model"),
        ({"name": "A", "model": "y"}, "'A' needs hook_names: which layers of 'y' are compared"),
        ({"name": "A", "model": "y", "hook_names": ["a", "a"]}, "'A' names a hook point twice"),
    ],
)
def test_settings_of_a_model(options, message) -> None:
    with pytest.raises(InputError, match=message):
        ModelSettings(**options)
