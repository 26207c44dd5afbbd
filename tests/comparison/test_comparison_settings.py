"""What a comparison may be asked for."""

import dataclasses

import pytest

from itda_lightning.comparison.comparison_settings import (
    ComparisonSettings,
    EntrySettings,
    FitSettings,
    KMeansSettings,
    PCASettings,
    RandomSettings,
)
from itda_lightning.errors import InputError
from itda_lightning.fitting.refinement import RefinementSettings
from itda_lightning.saelens.training_settings import TrainingSettings

WAYS = {
    "load": "runs/small",
    "fit": FitSettings(),
    "train": TrainingSettings("topk", 64, k=4),
    "random": RandomSettings(64),
    "kmeans": KMeansSettings(64),
    "pca": PCASettings(),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_entry_has_one_way(way):
    entry = EntrySettings("a name", same_model=True, **{way: WAYS[way]})
    assert (entry.way, entry.chosen) == (way, WAYS[way])
    assert entry.ways == [way]


@pytest.mark.parametrize("ways", [[], ["load", "fit"], ["train", "random", "pca"]])
def test_no_way_and_several_are_refused(ways):
    with pytest.raises(
        InputError, match=r"entry 'x' must have exactly one of load, fit, train, random, kmeans and pca, got"
    ):
        EntrySettings("x", **{way: WAYS[way] for way in ways})


@pytest.mark.parametrize("name", ["", " \t"])
def test_an_entry_needs_a_name(name):
    with pytest.raises(InputError, match="every entry needs a name"):
        EntrySettings(name, load="runs/small")


def test_the_module_of_a_fit_has_its_settings():
    settings = FitSettings(77, 3, "omp", True, "worst_first", 0.5, 0.5, False, 4096, RefinementSettings())
    hparams = settings.module().hparams
    for field in dataclasses.fields(FitSettings):
        assert field.name in ("tokens", "refine") or hparams[field.name] == getattr(settings, field.name)
    assert not {"tokens", "refine"} & set(hparams)
    assert (hparams["paper_threshold"], hparams["bad_activations"]) == (None, "skip")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: FitSettings(k=0), r"model\.k must be at least 1, got 0"),
        (lambda: FitSettings(threshold=1.5), r"threshold.*1\.5"),
        (lambda: RandomSettings(0), r"random\.n_atoms must be at least 1, got 0"),
        (lambda: RandomSettings(5, k=-1), r"random\.k must be at least 1, got -1"),
        (lambda: PCASettings(0), r"pca\.k must be at least 1, got 0"),
        (lambda: KMeansSettings(0), r"kmeans\.n_atoms must be at least 1, got 0"),
        (lambda: KMeansSettings(5, passes=0), r"kmeans\.passes must be at least 1, got 0"),
        (lambda: KMeansSettings(5, k=4, l0=5.0), r"kmeans\.l0 .* 5"),
        (lambda: KMeansSettings(5, seed=-1), r"kmeans\.seed must lie between 0 and .*, got -1"),
    ],
)
def test_what_could_not_be_made_is_refused_at_once(make, text):
    with pytest.raises(InputError, match=text):
        make()


def test_a_comparison_needs_entries_of_different_names():
    with pytest.raises(InputError, match="nothing to compare: give at least one of entries"):
        ComparisonSettings([], "out")
    entries = [EntrySettings(name, pca=PCASettings()) for name in ("b", "a", "b", "c", "a")]
    with pytest.raises(InputError, match=r"different names, but several are called \['a', 'b'\]: rename them"):
        ComparisonSettings(entries, "out")


@pytest.mark.parametrize("name", ["loss_tokens", "model_batch_size", "atoms_shown", "latents_of"])
def test_numbers_out_of_range_are_refused(name):
    with pytest.raises(InputError, match=f"^{name} must be at least 1, got 0"):
        ComparisonSettings([EntrySettings("a", pca=PCASettings())], "out", **{name: 0})


@pytest.mark.parametrize(
    ("controls", "kinds"),
    [(True, ("random", "pca")), (False, ()), ([], ()), (["kmeans", "frozen"], ("kmeans", "frozen"))],
)
def test_controls_are_the_quick_ones_or_those_that_are_listed(controls, kinds):
    settings = ComparisonSettings([EntrySettings("a", pca=PCASettings())], "out", controls=controls)
    assert settings.chosen_controls == kinds
