"""Sparse probing: sae-probes' draws and probes, our activations of any model, held against it and against hand."""

import importlib
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.comparison import probing, probing_data
from itda_lightning.comparison.probe_settings import ProbeSettings
from itda_lightning.comparison.probing import measure_probing, probe_scores
from itda_lightning.comparison.probing_data import (
    ProbeDataset,
    cached_activations,
    last_token_activations,
    load_datasets,
)
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.comparison import Estimate
from itda_lightning.results.paired import mean_over_draws
from itda_lightning.saelens import to_sae
from tests import by_hand
from tests.runs import HOOK, LAYER
from tests.tiny_model import BOS, WIDTH

NAMES = ("155_athlete_sport_basketball", "5_hist_fig_ismale")
TEXTS = ["a", "The Senate ratified the treaty", "of peace with all nations", "peace"]


@pytest.fixture(scope="module")
def language_model(tiny_model_dir) -> LanguageModel:
    return LanguageModel(LanguageModelName(str(tiny_model_dir), device="cpu"), [HOOK])


@pytest.fixture
def settings(tmp_path) -> ProbeSettings:
    return ProbeSettings(
        datasets=NAMES, ks=(1, 4), seeds=2, train_examples=40, test_examples=20, max_tokens=16, cache_dir=str(tmp_path)
    )


def topk(d_in: int = WIDTH, n: int = 48) -> TopKSAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TopKSAE(TopKSAEConfig(d_in=d_in, d_sae=n, k=5))


def draw(n: int, train: int, labels: np.ndarray | None = None) -> ProbeDataset:
    """Examples of alternating classes, the first ``train`` of them to learn from."""
    labels = np.arange(n) % 2 if labels is None else labels
    return ProbeDataset("made", [str(i) for i in range(n)], labels, ((np.arange(train), np.arange(train, n)),))


def test_activations_are_those_of_the_last_token(language_model, tiny_model_dir):
    found = last_token_activations(language_model, HOOK, TEXTS, 64)
    assert found.shape == (len(TEXTS), WIDTH)
    for text, activation in zip(TEXTS, found, strict=True):
        tokens = torch.tensor([[BOS, *language_model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
        torch.testing.assert_close(activation, by_hand.activations(tiny_model_dir, LAYER, tokens)[0, -1])


def test_activations_are_those_of_sae_probes(language_model):
    """Its own function; the tokenizer of such a model adds BOS."""
    theirs = importlib.import_module("sae_probes.generate_model_activations")
    expected = theirs._process_activations(language_model.model, TEXTS, 2, 64, [HOOK], None, "cpu")[HOOK]
    torch.testing.assert_close(last_token_activations(language_model, HOOK, TEXTS, 64), expected)


def test_long_texts_are_cut_on_the_left(language_model):
    long = " ".join(["first words that are cut"] * 9 + ["peace"])
    tokens = language_model.tokenizer(long, add_special_tokens=False)["input_ids"]
    kept = language_model.tokenizer.decode(tokens[-7:])
    assert language_model.tokenizer(kept, add_special_tokens=False)["input_ids"] == tokens[-7:]
    found = last_token_activations(language_model, HOOK, [long, kept], 8)
    torch.testing.assert_close(found[0], found[1])


def test_activations_are_computed_once(language_model, settings, monkeypatch, caplog):
    datasets = load_datasets(settings)
    assert tuple(dataset.name for dataset in datasets) == NAMES
    first = cached_activations(language_model, HOOK, datasets, settings)
    monkeypatch.setattr(probing_data, "last_token_activations", lambda *_: pytest.fail("computed again"))
    for one, other in zip(first, cached_activations(language_model, HOOK, datasets, settings), strict=True):
        assert torch.equal(one, other)
    assert "digest" not in caplog.text


def test_other_facts_are_another_cache(language_model, settings, tmp_path):
    datasets = load_datasets(settings)[:1]
    cached_activations(language_model, HOOK, datasets, settings)
    shorter = ProbeSettings(NAMES[:1], (1,), 2, 40, 20, max_tokens=3, cache_dir=str(tmp_path))
    cached_activations(language_model, HOOK, datasets, shorter)
    assert len(list((tmp_path / "probing").iterdir())) == 2


def test_a_damaged_cache_is_named(language_model, settings, tmp_path):
    datasets = load_datasets(settings)[:1]
    cached_activations(language_model, HOOK, datasets, settings)
    (file,) = (tmp_path / "probing").iterdir()
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(InputError, match=rf"{file.name} is truncated or foreign .*: remove it and run again"):
        cached_activations(language_model, HOOK, datasets, settings)


def test_draws_are_those_of_sae_probes(settings, tmp_path):
    """Its own function, given the number of each example as its activation."""
    theirs = importlib.import_module("sae_probes.utils_data")
    for dataset in load_datasets(settings):
        frame = theirs.read_numbered_dataset_df(dataset.name)
        folder = tmp_path / "model_activations_m"
        folder.mkdir(exist_ok=True)
        torch.save(torch.arange(len(frame)), folder / f"{dataset.name}_hook.pt")
        for seed, (train, test) in enumerate(dataset.draws):
            x_train, y_train, x_test, y_test = theirs.get_xy_traintest_specify(
                40, dataset.name, "hook", "m", tmp_path, num_test=20, seed=seed
            )
            for found, x, y in ((train, x_train, y_train), (test, x_test, y_test)):
                assert [dataset.texts[i] for i in found] == frame["prompt"].iloc[x.tolist()].astype(str).tolist()
                assert np.array_equal(dataset.labels[found], y)


def test_examples_of_a_draw_are_balanced_and_apart(settings):
    for dataset in load_datasets(settings):
        assert len(dataset.draws) == 2
        assert not np.array_equal(dataset.draws[0][0], dataset.draws[1][0])
        for train, test in dataset.draws:
            assert (len(train), len(test)) == (40, 20)
            assert not set(train) & set(test)
            assert dataset.labels[train].sum() == 20
            assert dataset.labels[test].sum() == 10


def test_a_latent_that_tells_the_classes_apart_is_found():
    generator = torch.Generator().manual_seed(0)
    dataset = draw(160, 128)  # a penalty is judged on one split, with fewer than 128 on six
    codes = torch.randn(160, 30, generator=generator) * (torch.rand(160, 30, generator=generator) < 0.3)
    codes[:, 17] = torch.from_numpy(dataset.labels).float()
    dense = torch.randn(160, 8, generator=generator)
    scores = probe_scores(codes, dense, dataset, (1, 2))
    assert set(scores) == {"k=1", "k=2", "all", "dense"}
    assert scores["k=1"] == [(1.0, 1.0)]
    assert scores["dense"][0][0] < 0.9
    assert probe_scores(codes, None, dataset, (1, 2)) == {name: scores[name] for name in ("k=1", "k=2")}


def test_every_draw_has_its_seed_with_and_without_references(monkeypatch):
    monkeypatch.setattr(
        probing, "_probe", lambda features, labels, train, test, seed: (float(seed), float(features.sum()))
    )
    one = draw(80, 60)
    dataset = ProbeDataset(one.name, one.texts, one.labels, one.draws * 2)
    codes = torch.rand(80, 5, generator=torch.Generator().manual_seed(0))
    whole, sparse = (probe_scores(codes, dense, dataset, (1, 2)) for dense in (codes, None))
    assert [seed for seed, _ in whole["k=1"]] == [0, 1]
    assert sparse == {name: whole[name] for name in ("k=1", "k=2")}


def test_test_examples_choose_no_latent(monkeypatch):
    """Latent 3 tells the classes apart in the test examples only, latent 7 hardly and in the training examples only."""
    seen = []
    monkeypatch.setattr(probing, "_probe", lambda features, *_: seen.append(features) or (0.0, 0.0))
    dataset = draw(160, 80)
    labels, (train, test) = torch.from_numpy(dataset.labels).float(), dataset.draws[0]
    codes = torch.rand(160, 12, generator=torch.Generator().manual_seed(0)) * 0.1 + 1
    codes[test, 3] = 9 * labels[test]
    codes[train, 7] += 0.3 * labels[train]
    probe_scores(codes, None, dataset, (1, 4))
    assert np.array_equal(seen[0][:, 0], codes[:, 7].numpy())
    other = codes.clone()
    other[test] = other[test].flip(1)
    flipped = dataset._replace(labels=np.where(np.isin(np.arange(160), test), 1 - dataset.labels, dataset.labels))
    probe_scores(other, None, flipped, (1, 4))
    for before, after in zip(seen[:2], seen[2:], strict=True):
        assert np.array_equal(after[train], before[train])


def test_a_probe_is_trained_on_the_training_examples(monkeypatch):
    """In the test examples the only latent has the other sign: a probe that has seen them could not be so wrong."""
    dataset = draw(256, 128)
    codes = torch.from_numpy(dataset.labels).float()[:, None].repeat(1, 2) * 2 - 1
    codes[dataset.draws[0][1]] *= -1
    assert probe_scores(codes, None, dataset, (1,))["k=1"] == [(0.0, 0.0)]


def test_a_signed_latent_counts_with_its_sign():
    """Positive for one class and negative for the other: counting `> 0` alone would see it, but as two latents."""
    dataset = draw(160, 128)
    codes = torch.zeros(160, 5)
    codes[:, 3] = torch.from_numpy(dataset.labels).float() * 2 - 1
    codes[::3, 1] = 0.5
    assert probe_scores(codes, None, dataset, (1,))["k=1"] == [(1.0, 1.0)]
    codes[:, 3] = -torch.from_numpy(dataset.labels).float()
    assert probe_scores(codes, None, dataset, (1,))["k=1"] == [(1.0, 1.0)]


def test_all_latents_are_all_though_unused_ones_are_left_out():
    generator = torch.Generator().manual_seed(1)
    dataset = draw(80, 60)
    codes = torch.randn(80, 10, generator=generator).clamp(min=0)
    codes[:60, ::2] = 0  # never used in training
    codes[:, 3] += torch.from_numpy(dataset.labels)
    train, test = dataset.draws[0]
    theirs = importlib.import_module("sae_probes.utils_training").find_best_reg
    y = dataset.labels
    expected = theirs(codes[train].numpy(), y[train], codes[test].numpy(), y[test], penalty="l2", seed=0).metrics
    assert probe_scores(codes, codes, dataset, (1,))["all"] == [
        (pytest.approx(expected.test_acc), pytest.approx(expected.test_auc))
    ]


def test_what_is_detected_is_the_cosine_with_the_decoder():
    sae = topk()
    sae.b_dec.data.copy_(torch.arange(WIDTH) / 7)
    sae.W_dec.data *= torch.rand(48, 1) + 0.5
    x = torch.randn(5, WIDTH)
    expected = torch.nn.functional.cosine_similarity((x - sae.b_dec)[:, None], sae.W_dec[None], dim=2)
    torch.testing.assert_close(probing.detections(sae, x), expected)
    dictionary = Dictionary(torch.nn.functional.normalize(sae.W_dec, dim=1), sae.b_dec, k=2)
    torch.testing.assert_close(probing.detections(to_sae(dictionary), x), dictionary.detect(x))


def test_the_estimate_by_hand():
    found = mean_over_draws(torch.tensor([[0.5, 0.7], [0.9, 0.9], [0.8, 0.6]], dtype=torch.float64))
    assert found.value == pytest.approx((0.6 + 0.9 + 0.7) / 3)
    # Variances of the datasets' means: 0.01, 0, 0.01; of their mean: the sum over nine.
    assert found.error == pytest.approx(math.sqrt(0.02) / 3)
    assert mean_over_draws(torch.tensor([[0.5], [0.75]])) == Estimate(0.625, None)


def test_the_hash_of_examples_is_that_of_what_is_drawn():
    one = [probing_data.hash_of_examples([draw(8, 4)]) for _ in range(2)]
    others = [probing_data.hash_of_examples(datasets) for datasets in ([draw(8, 4)] * 2, [draw(8, 5)], [draw(9, 4)])]
    assert len({*one, *others}) == 4


def test_everything_together(language_model, settings, tiny_run):
    """An ITDA and another SAE: the same examples, so the same dense probe; without references sparse probes only.

    From 128 examples on a penalty is judged on one split.
    """
    settings = replace(settings, datasets=NAMES[:1], ks=(4,), train_examples=128)
    itda = measure_probing(to_sae(load_dictionary(tiny_run)), language_model, HOOK, settings)
    other = measure_probing(topk(), language_model, HOOK, settings)
    names = [f"{kind}/{probe}" for kind in ("probing", "probing_auc") for probe in ("k=4", "all", "dense")]
    assert list(itda) == list(other) == names
    assert itda["probing/dense"] == other["probing/dense"]
    assert itda["probing/all"] != other["probing/all"]
    for found in (*itda.values(), *other.values()):
        assert 0 <= found.value <= 1
        assert found.error is not None
        assert found.error >= 0
        assert sum(found.draws.scores[0]) / settings.seeds == pytest.approx(found.value)
    assert len({found.draws.examples for found in (*itda.values(), *other.values())}) == 1
    sparse = measure_probing(topk(), language_model, HOOK, replace(settings, references=False, detected=True))
    probes = ("k=4", "detected k=4")
    assert list(sparse) == [f"{kind}/{probe}" for kind in ("probing", "probing_auc") for probe in probes]
    assert sparse["probing/detected k=4"] != sparse["probing/k=4"]
    assert all(sparse[name] == other[name] for name in sparse if "detected" not in name)
    second, both = (
        measure_probing(topk(), language_model, HOOK, replace(settings, references=False, datasets=datasets))
        for datasets in (NAMES[1:], NAMES)
    )
    for name, found in both.items():
        assert found.value == pytest.approx((sparse[name].value + second[name].value) / 2)


def test_sae_probes_is_not_installed(language_model, settings, monkeypatch):
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(probing_data.importlib, "import_module", missing)
    with pytest.raises(InputError, match=r"needs sae-probes.*No module named.*run `pip install .*--no-deps sae-probes"):
        measure_probing(topk(), language_model, HOOK, settings)


def test_an_unknown_dataset_has_near_names():
    with pytest.raises(
        InputError, match=r"no dataset '87_glue_colla' of two classes: did you mean one of \['87_glue_cola'"
    ):
        load_datasets(ProbeSettings(("87_glue_colla",)))


def test_more_latents_than_there_are(language_model, monkeypatch):
    monkeypatch.setattr(probing, "load_datasets", lambda _: pytest.fail("worked before it was checked"))
    with pytest.raises(InputError, match="the SAE has 9 latents, too few for a probe of 16"):
        measure_probing(topk(n=9), language_model, HOOK, ProbeSettings(NAMES))
    with pytest.raises(pytest.fail.Exception, match="worked"):
        measure_probing(topk(n=16), language_model, HOOK, ProbeSettings(NAMES))


def test_an_sae_of_another_model_or_hook_point(language_model, settings):
    with pytest.raises(InputError, match=f"d_in 8 but {HOOK} of .* has {WIDTH} dimensions"):
        measure_probing(topk(d_in=8), language_model, HOOK, settings)
    with pytest.raises(InputError, match=r"reads hook point 'blocks.0.hook_mlp_out', .* loaded for"):
        measure_probing(topk(), language_model, "blocks.0.hook_mlp_out", settings)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train_examples": 3}, "train_examples must be at least 4, got 3"),
        ({"test_examples": 1}, "test_examples must be at least 2, got 1"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"max_tokens": 1}, "max_tokens must be at least 2, got 1"),
        ({"ks": ()}, r"at least one latent each, got ks=\(\)"),
        ({"ks": (0, 1)}, r"at least one latent each, got ks=\(0, 1\)"),
        ({"datasets": ()}, r"at least one dataset, and none twice, got \(\)"),
        ({"datasets": ("96_spam_is", "96_spam_is")}, "none twice, got"),
    ],
)
def test_settings_that_cannot_be(changed, message):
    with pytest.raises(InputError, match=message):
        ProbeSettings(**changed)
