"""The whole similarity study: every measure against its definition, other tokenizers, and runs."""

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from itda_lightning import Dictionary, InputError
from itda_lightning.across_models import alignment, representation_comparison
from itda_lightning.across_models.alignment import AlignedActivations, AlignedTokens
from itda_lightning.across_models.compared_models import SameText
from itda_lightning.across_models.similarity_settings import MEASURES, SimilaritySettings
from itda_lightning.across_models.similarity_study import compare_models
from itda_lightning.dictionary.sources import Sources
from itda_lightning.measures import (
    CrossMoments,
    RelativeSimilarity,
    aligned_cosine,
    aligned_cosine_null,
    angular_procrustes,
    cka,
    cka_null_of,
    distance_correlation,
    excess,
    expected_weighted_jaccard,
    jaccard_over_chance,
    mutual_neighbours,
    null_of,
    procrustes,
    procrustes_of,
    pwcca,
    regression_r2,
    relative_similarity,
    rsa,
    second_order_cosine,
    svcca,
    weighted_jaccard,
)
from itda_lightning.results.model_similarity import ModelSimilarity
from tests.across_models.study import FIT, HOOKS, data_of, settings_of
from tests.runs import HOOK, OTHER_HOOK

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def setting(tiny_model_dir, other_seed_dir, prose_file, tmp_path_factory) -> tuple[SimilaritySettings, dict[str, Any]]:
    root = tmp_path_factory.mktemp("study")
    models = {
        "A": {"model": str(tiny_model_dir), "hook_names": HOOKS[:2]},
        "B": {"model": str(other_seed_dir), "hook_names": HOOKS[:2]},
    }
    return settings_of(root / "out", models, measures=list(MEASURES)), data_of(prose_file, root / "cache")


@pytest.fixture(scope="module")
def results(setting) -> ModelSimilarity:
    # Few pairs at a time, so that sums are taken in several passes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(representation_comparison, "MOMENTS_BYTES", 8 * 17 * 5 * 32**2)
        return compare_models(setting[0], setting[1], FIT)


@pytest.fixture(scope="module")
def activations(setting) -> list[torch.Tensor]:
    """Return the activations of each site at all held-out tokens."""
    sites = []
    for model in setting[0].models:
        data = SameText(**setting[1], **model.of_the_model)
        batches = list(data.val_dataloader())
        sites += [torch.cat([batch.activations[hook] for batch in batches]) for hook in HOOKS[:2]]
    return sites


def fitted_dictionaries(settings: SimilaritySettings) -> list[list[Dictionary]]:
    """Load the fitted dictionaries of each model, in the order of the settings."""
    fits = sorted((Path(settings.directory) / "made").iterdir())
    made = [[Dictionary.load(fit / "dictionaries" / hook) for hook in HOOKS[:2]] for fit in fits]
    order = [model.model for model in settings.models]
    return sorted(made, key=lambda fit: order.index(fit[0].metadata["model_name"]))


def test_every_measure_of_activations_is_that_of_all_tokens_at_once(results, activations) -> None:
    tokens = len(activations[0])
    draw = [torch.randperm(tokens, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1, 2)]
    anchors, queries, sample = (one[:n].sort().values for one, n in zip(draw, (20, 100, 120), strict=True))
    oracles = {
        "cka": cka,
        "debiased_cka": lambda x, y: cka(x, y, debiased=True),
        "svcca": svcca,
        "pwcca": pwcca,
        "regression": regression_r2,
        "procrustes": procrustes,
        "relative": lambda x, y: relative_similarity(x, y, anchors),
        "neighbours": lambda x, y: mutual_neighbours(x, y, 5, queries),
        "angular_procrustes": angular_procrustes,
        "aligned_cosine": lambda x, y: aligned_cosine(x[sample], y[sample]),
        "distance_correlation": lambda x, y: distance_correlation(x[sample], y[sample]),
        "rsa": lambda x, y: rsa(x[sample], y[sample]),
        "second_order_cosine": lambda x, y: second_order_cosine(x[sample], y[sample], 5),
    }
    by_measure = {measured.measure: measured for measured in results.measured}
    assert list(by_measure) == list(MEASURES)
    for name, oracle in oracles.items():
        for i, x in enumerate(activations):
            for j, y in enumerate(activations):
                expected = 1.0 if i == j else oracle(x, y)
                assert by_measure[name].values[i][j] == pytest.approx(expected, abs=1e-8), (name, i, j)
        assert all(by_measure[name].errors[i][j] > 0 for i in range(4) for j in range(4) if i != j)
        assert [by_measure[name].errors[i][i] for i in range(4)] == [0.0] * 4


def test_what_is_expected_of_permuted_tokens_stands_beside_each_measure(results, activations) -> None:
    sample = torch.randperm(len(activations[0]), generator=torch.Generator().manual_seed(2))[:120].sort().values
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(len(activations[0]), generator=generator) for _ in range(30)]
    anchors = torch.randperm(len(activations[0]), generator=torch.Generator().manual_seed(0))[:20].sort().values
    by_measure = {measured.measure: measured for measured in results.measured}
    x, y = activations[0], activations[3]
    moments = CrossMoments.of(x, y)
    of_permuted = {
        "cka": cka_null_of(moments),
        "debiased_cka": 0.0,
        "regression": 32 / (len(x) - 1),
        "procrustes": null_of(procrustes_of, moments),
        "aligned_cosine": aligned_cosine_null(x[sample], y[sample]),
        "rsa": 0.0,
        "neighbours": 5 / (len(x) - 1),
        "jaccard": 0.0,
    }
    relative = RelativeSimilarity(x[anchors], y[anchors])
    relative.update(x, y)
    of_permuted["relative"] = relative.null()
    for name, expected in of_permuted.items():
        assert by_measure[name].nulls[0][3] == pytest.approx(expected, abs=1e-6), name
    permuted = {"svcca": svcca, "pwcca": pwcca, "procrustes": procrustes, "angular_procrustes": angular_procrustes}
    for name, measure in permuted.items():
        mean = sum(measure(x, y[order]) for order in orders) / len(orders)
        assert by_measure[name].nulls[0][3] == pytest.approx(mean, abs=0.02), name
    for measured in results.measured:
        assert math.isnan(measured.nulls[1][1])
        assert measured.excesses[1][1] == 1.0
        for i, j in ((0, 3), (3, 0)):
            assert measured.excesses[i][j] == pytest.approx(excess(measured.values[i][j], measured.nulls[i][j]))


def test_neighbours_are_searched_among_as_many_candidates(setting, results, activations, tmp_path) -> None:
    settings, data = setting
    models = {one.name: one.of_the_model for one in settings.models}
    few = settings_of(tmp_path / "out", models, measures=["neighbours"], candidates=200)
    (measured,) = compare_models(few, data, FIT).measured
    order = torch.randperm(len(activations[0]), generator=torch.Generator().manual_seed(1))
    chosen, queries = order[:200].sort().values, order[:100].sort().values
    x, y = activations[0][chosen], activations[3][chosen]
    expected = mutual_neighbours(x, y, 5, torch.searchsorted(chosen, queries))
    assert measured.values[0][3] == pytest.approx(expected, abs=1e-9)
    assert measured.nulls[0][3] == pytest.approx(5 / 199)


def test_dictionaries_are_compared_by_as_many_first_atoms(results, setting, activations) -> None:
    made = [one for fit in fitted_dictionaries(setting[0]) for one in fit]
    assert results.universe == len(
        SameText(**setting[1], **setting[0].models[0].of_the_model).rows("train").kept.nonzero()
    )
    n = results.atoms
    assert 10 <= n <= min(one.n_atoms for one in made)
    cropped = [
        Dictionary(one.atoms[:n], one.bias, Sources(one.source_table[:n], one.dataset), k=one.k, pursuit=one.pursuit)
        for one in made
    ]
    uses = [
        (one.encode(x).distinct().to_dense(n) != 0).double().sum(0) for one, x in zip(cropped, activations, strict=True)
    ]
    by_measure = {measured.measure: measured.values for measured in results.measured}
    nulls = {measured.measure: measured.nulls for measured in results.measured}
    for i, one in enumerate(cropped):
        for j, other in enumerate(cropped):
            over = jaccard_over_chance(one.sources, other.sources, results.universe)
            assert by_measure["jaccard"][i][j] == pytest.approx(over.excess, abs=1e-9)
            assert results.chance == pytest.approx(over.expected, abs=1e-12)
            ruzicka = weighted_jaccard(one.sources, other.sources, uses[i] / uses[i].sum(), uses[j] / uses[j].sum())
            assert by_measure["weighted_jaccard"][i][j] == pytest.approx(ruzicka, abs=1e-9)
            if i != j:
                of_i, of_j = (use / use.sum() for use in (uses[i], uses[j]))
                null = expected_weighted_jaccard(of_i, of_j, results.universe)
                assert nulls["weighted_jaccard"][i][j] == pytest.approx(null, abs=1e-9)
    unions = [
        Sources(torch.cat([one.source_table[:n] for one in fit]), fit[0].dataset)
        for fit in fitted_dictionaries(setting[0])
    ]
    (whole,) = results.whole_models
    first, second = unions
    over = jaccard_over_chance(first, second, results.universe)
    assert (whole.overlap.jaccard, whole.overlap.expected) == pytest.approx((over.jaccard, over.expected), abs=1e-9)


def test_the_noise_floor_stands_beside_the_comparison(results) -> None:
    assert [(entry.model, entry.hook_name) for entry in results.reordered] == [
        (name, hook) for name in "AB" for hook in (*HOOKS[:2], None)
    ]
    for entry in results.reordered:
        (overlap,) = entry.overlaps
        assert 0 <= overlap.jaccard < 1
        assert overlap.excess == overlap.jaccard - overlap.expected
        assert overlap.error >= 0


def test_accuracies_and_facts(results, setting) -> None:
    for measured in results.measured:
        assert measured.paper_accuracy == pytest.approx((1 + measured.accuracy) / 2)
        assert 0 <= measured.accuracy_error <= 0.6
        assert measured.seconds > 0
    assert [site.label for site in results.sites] == ["0", "1", "0", "1"]
    facts = results.facts
    assert facts["aligned by"] == "tokens (100.0% of A, 100.0% of B)"
    assert facts["model A"].startswith(str(setting[0].models[0].model))
    assert facts["hook points of B"] == "blocks.*.hook_resid_post at 0, 1"
    assert len(facts["held-out tokens' hash"]) == 16


def test_a_second_run_takes_the_dictionaries_over_and_gives_the_same(results, setting, caplog) -> None:
    caplog.set_level(logging.INFO)
    again = compare_models(setting[0], setting[1], FIT)
    assert sum("reusing dictionaries from" in message for message in caplog.messages) == 2
    for one, other in zip(results.measured, again.measured, strict=True):
        assert torch.allclose(torch.tensor(one.values), torch.tensor(other.values), atol=1e-9)
        assert torch.allclose(torch.tensor(one.errors), torch.tensor(other.errors), atol=1e-7)
    assert results.whole_models == again.whole_models
    assert results.reordered == again.reordered


def test_without_dictionaries_no_training_text_is_needed(results, setting, tmp_path) -> None:
    settings, data = setting
    of_activations = settings_of(
        tmp_path / "out", {one.name: one.of_the_model for one in settings.models}, measures=["cka"], resamples=0
    )
    more_than_there_is = {"cache_dir": str(tmp_path / "cache"), "training_tokens": 10**9}
    similarity = compare_models(of_activations, data | more_than_there_is, FIT)
    (cka_measured,) = similarity.measured
    (expected,) = (measured for measured in results.measured if measured.measure == "cka")
    assert torch.allclose(torch.tensor(cka_measured.values), torch.tensor(expected.values), atol=1e-9)
    assert not (tmp_path / "out" / "made").exists()


def test_a_model_beside_itself_under_another_tokenizer(
    tiny_model_dir, other_tokenizer_dir, prose_file, tmp_path
) -> None:
    models = {
        name: {"model": str(path), "hook_names": HOOKS[:1]}
        for name, path in (("whole", tiny_model_dir), ("cut", other_tokenizer_dir))
    }
    measures = ["jaccard", "debiased_cka", "relative"]
    settings = settings_of(tmp_path / "out", models, measures=measures)
    similarity = compare_models(settings, data_of(prose_file, tmp_path / "cache"), FIT)
    assert similarity.facts["aligned by"].startswith("characters (")
    assert "cut" in similarity.facts["aligned by"]
    assert similarity.atoms >= 10
    values = {measured.measure: measured.values[0][1] for measured in similarity.measured}
    # Embeddings are random, so only tokens that both cut alike are alike; of unrelated layers it is about 0.
    assert values["debiased_cka"] > 0.1
    with pytest.raises(InputError, match="alignment is tokens, but the models read different tokens"):
        compare_models(
            settings_of(tmp_path / "out", models, alignment="tokens"), data_of(prose_file, tmp_path / "cache"), FIT
        )


def test_runs_are_compared_with_what_is_fitted(tiny_run, tiny_run_of_two, tiny_model_dir, prose_file, tmp_path) -> None:
    data = data_of(prose_file, tmp_path / "cache", holdout_fraction=0.1, validation_tokens=32 * 16)
    models = {
        "run": {"run": str(tiny_run)},
        "two": {"run": str(tiny_run_of_two)},
        "fitted": {"model": str(tiny_model_dir), "hook_names": [HOOK]},
    }
    similarity = compare_models(settings_of(tmp_path / "out", models, measures=["jaccard", "cka"]), data, FIT)
    assert [(site.model, site.hook_name) for site in similarity.sites] == [
        ("run", HOOK),
        ("two", OTHER_HOOK),
        ("two", HOOK),
        ("fitted", HOOK),
    ]
    by_measure = {measured.measure: measured for measured in similarity.measured}
    # The same hook point of the same model on the same tokens, read in one order.
    assert by_measure["jaccard"].values[0][2] == pytest.approx(1 - similarity.chance)
    assert by_measure["cka"].values[0][2] == pytest.approx(1.0)
    assert by_measure["cka"].values[0][1] < 0.999
    assert math.isfinite(by_measure["jaccard"].accuracy), "two models have one hook point"


def test_tokens_of_one_document_tell_no_error(setting, tmp_path) -> None:
    settings, data = setting
    models = {one.name: one.of_the_model for one in settings.models}
    one_row = data | {"validation_tokens": 16, "cache_dir": str(tmp_path / "cache")}
    with pytest.raises(
        InputError, match=r"are of one document, so no standard error can be computed: raise .* or set resamples to 0"
    ):
        compare_models(settings_of(tmp_path / "out", models, measures=["cka"]), one_row, FIT)
    similarity = compare_models(settings_of(tmp_path / "out", models, measures=["cka"], resamples=0), one_row, FIT)
    assert math.isnan(similarity.measured[0].errors[0][2])


def test_activations_that_are_nowhere_finite_are_refused(setting, monkeypatch) -> None:
    def not_finite(data, hook_names, places, split):
        return [torch.full((len(places), 2), torch.inf)]

    monkeypatch.setattr(alignment, "_read", not_finite)
    tokens = AlignedTokens(torch.zeros(3, 3, dtype=torch.int64), (torch.zeros(3, 2, dtype=torch.int64),))
    with pytest.raises(
        InputError, match="at none of 3 tokens in common are the activations of all models finite and not"
    ):
        AlignedActivations([(SameText(**setting[1], **setting[0].models[0].of_the_model), HOOKS[:1])], tokens)


def test_dictionaries_of_too_few_atoms_are_refused(setting, tmp_path) -> None:
    settings, data = setting
    few = SimilaritySettings(settings.models, str(tmp_path), measures=["jaccard"])
    with pytest.raises(InputError, match="has 5 atoms whose sources all fits have read, of 5: too few to estimate"):
        compare_models(few, data, FIT | {"max_atoms": 5})
