"""Scores, training texts and measures of `benchmarks/resi`, and activations of `benchmarks/similarity/at_scale`."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.resi import ranks, scores, variants
from benchmarks.resi.groups import chance
from benchmarks.resi.matrices import NAMES, all_measures
from benchmarks.similarity.at_scale import TABLE, MadeActivations
from tests.growth.naive import mixtures

DISTANCES = (torch.arange(6.0)[:, None] - torch.arange(6.0)).abs().double()


def drawn(n: int, seed: int) -> torch.Tensor:
    values = torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values + values.T


def test_similarity_that_falls_with_distance_conforms() -> None:
    assert scores.conformity(1 - DISTANCES / 10) == 1.0
    assert scores.correlation_with_distance(1 - DISTANCES / 10) == pytest.approx(1.0)
    assert scores.conformity(DISTANCES) == 0.0
    assert scores.correlation_with_distance(DISTANCES) == pytest.approx(-1.0)


def test_one_pair_of_layers_out_of_order() -> None:
    values = 3.0 - DISTANCES[:3, :3]
    values[0, 1] = values[1, 0] = 0.5  # less than 1.0 of layers 0 and 2, which are farther apart
    assert scores.conformity(values) == 1 / 2
    assert scores.correlation_with_distance(values) == pytest.approx(0.0)


def test_equal_similarities_conform_without_a_correlation() -> None:
    assert scores.conformity(torch.ones(4, 4)) == 1.0
    assert math.isnan(scores.correlation_with_distance(torch.ones(4, 4)))


def test_groups_apart_and_groups_alike() -> None:
    groups = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    same = (torch.tensor(groups)[:, None] == torch.tensor(groups)).double()
    assert scores.separation(same, groups) == (1.0, 0.0)
    auprc, violations = scores.separation(torch.ones(9, 9), groups)
    assert (auprc, violations) == (pytest.approx(chance(3, 3)), 1.0)
    assert (chance(5, 3), chance(5, 3, "other seeds")) == (10 / 60, 10 / 50)
    starts = [0, 1, 2] * 3
    assert scores.separation(torch.ones(9, 9), groups, starts).auprc == pytest.approx(chance(3, 3, "other seeds"))


def test_one_pair_across_above_the_pairs_within() -> None:
    values = torch.zeros(4, 4, dtype=torch.float64)
    for (i, j), value in {(0, 1): 0.8, (2, 3): 0.7, (0, 2): 0.9}.items():
        values[i, j] = values[j, i] = value
    auprc, violations = scores.separation(values, [0, 0, 1, 1])
    # Of each group one pair within is second to one of four pairs across.
    assert (auprc, violations) == (pytest.approx(1 / 2), pytest.approx(1 / 4))
    assert scores.separation(values, [0, 0, 1, 1], [0, 1, 0, 1]) == (1.0, 0.0), "the pair across has one start"


def test_mean_similarities_leave_out_models_with_themselves() -> None:
    values = torch.tensor([[9.0, 1.0, 2.0], [3.0, 9.0, 4.0], [5.0, 6.0, 9.0]], dtype=torch.float64)
    first, second = scores.mean_similarities(values, [0, 0, 1])
    assert first == [2.0, 3.0]
    assert second[0] == 5.5


@given(seed=st.integers(0, 10**6))
def test_scores_are_of_the_order_of_similarities_alone(seed) -> None:
    values, groups = drawn(6, seed), [0, 0, 1, 1, 2, 2]
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    moved = scores.separation(values[order][:, order].exp(), [groups[i] for i in order.tolist()])
    assert moved == pytest.approx(scores.separation(values, groups))
    assert scores.conformity(values.exp()) == scores.conformity(values)
    assert scores.conformity(values.flip(0, 1)) == scores.conformity(values), "either end may be the first layer"
    reversed_order = scores.correlation_with_distance(-values)
    assert reversed_order == pytest.approx(-scores.correlation_with_distance(values))


def test_the_jackknife_of_a_mean_is_its_standard_error() -> None:
    values = torch.tensor([1.0, 4.0, 2.0, 9.0], dtype=torch.float64)
    without, error = scores.jackknife(lambda units: float(values[units].mean()), 4)
    assert without[1] == 4.0
    assert error == pytest.approx(float(values.std() / 2))


def test_equal_scores_share_a_rank() -> None:
    found = scores.mean_ranks(torch.tensor([[0.9, 0.5, 0.5], [0.1, 0.3, 0.2]], dtype=torch.float64))
    assert found.tolist() == [2.0, 1.75, 2.25]


def test_ranks_leave_each_seed_out_of_all_tests_that_have_seeds() -> None:
    def rows(test: str, score: str, values: list[float], without: list[list[float]]) -> list[dict[str, object]]:
        each = zip(NAMES[:2], values, without, strict=True)
        return [{"test": test, "measure": name, score: v, "without_a_seed": w} for name, v, w in each]

    def of_pairs(rows: list[dict[str, object]], pairs: str) -> list[dict[str, object]]:
        return [{**row, "pairs": pairs} for row in rows]

    groups = rows("labels", "auprc", [0.9, 0.4], [[0.8, 0.3], [0.5, 0.6]])
    layers = rows("bundled", "conformity", [0.7, 0.6], [[], []])
    others = rows("labels", "auprc", [0.1, 0.2], [[0.1, 0.2], [0.1, 0.2]])
    both = {"groups": of_pairs(groups, "all") + of_pairs(others, "other seeds"), "layers": layers}
    first, second = ranks.ranked(both)
    assert (first["measure"], first["rank"], first["groups: labels"], first["layers: bundled"]) == (
        NAMES[0],
        1,
        0.9,
        0.7,
    )
    assert (second["measure"], second["rank"]) == (NAMES[1], 2)
    assert first["error"] == pytest.approx(scores.error_of([1.0, 1.5]))
    assert [row["rank"] for row in ranks.ranked(both, "other seeds")] == [1.5, 1.5]


NEWS = variants.Labelled([[f"word{i}", f"term{i}", f"name{i}"] for i in range(400)], torch.arange(400) % 4)


def test_the_plain_variant_changes_nothing() -> None:
    same = variants.changed(NEWS, variants.VARIANTS["plain"])
    assert same.texts == NEWS.texts
    assert torch.equal(same.labels, NEWS.labels)


def test_random_labels_are_of_their_share() -> None:
    half = variants.changed(NEWS, variants.Variant(random_labels=0.5))
    assert half.texts == NEWS.texts
    # A label drawn anew is the same one in a quarter of the cases.
    assert float((half.labels == NEWS.labels).double().mean()) == pytest.approx(0.5 + 0.5 / 4, abs=0.1)
    assert torch.equal(half.labels, variants.changed(NEWS, variants.Variant(random_labels=0.5)).labels)


def test_augmentation_leaves_out_replaces_and_moves_words() -> None:
    words = [word for text in NEWS.texts for word in text]
    changed = variants.changed(NEWS, variants.Variant(augmentation=1.0))
    assert torch.equal(changed.labels, NEWS.labels)
    assert {word for text in changed.texts for word in text} <= set(words)
    kept = sum(map(len, changed.texts)) / len(words)
    own = sum(len(set(new) & set(old)) for new, old in zip(changed.texts, NEWS.texts, strict=True)) / len(words)
    assert (kept, own) == (pytest.approx(2 / 3, abs=0.1), pytest.approx(1 / 3, abs=0.1))


def test_a_shortcut_tells_the_class_as_often_as_it_should() -> None:
    assert torch.equal(variants.shortcuts(NEWS.labels, 4, 1.0), NEWS.labels)
    half = variants.shortcuts(NEWS.labels, 4, 0.5)
    assert float((half == NEWS.labels).double().mean()) == pytest.approx(0.5 + 0.5 / 4, abs=0.1)


class Letters:
    """A tokenizer of single characters."""

    bos_token_id = 0

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [ord(letter) for letter in text]

    def convert_tokens_to_ids(self, letter: str) -> int:
        return ord(letter)


def test_rows_have_one_length_and_end_with_the_token_that_is_read() -> None:
    plain = variants.rows_of(NEWS.part(0, 3), Letters()).tokens
    assert plain.shape == (3, variants.LENGTH + 2)
    text = "word0 term0 name0"
    assert plain[0, : 1 + len(text)].tolist() == [0, *map(ord, text)]
    assert (plain[:, -1] == ord("\n")).all()
    marked = variants.rows_of(NEWS.part(0, 3), Letters(), NEWS.labels[:3]).tokens
    assert marked[:, 1].tolist() == [ord("A"), ord("B"), ord("C")]
    assert torch.equal(marked[:, 2:], plain[:, 1:])


def test_equal_sites_are_as_similar_as_can_be_and_others_less() -> None:
    first, second = (mixtures(480, 12, seed, dtype=torch.float32) for seed in (0, 1))
    found = all_measures([first, first, second], [first, first, second])
    assert tuple(found) == NAMES
    for name, one in found.items():
        values = one.values
        assert values.shape == (3, 3)
        assert values[0, 1] == pytest.approx(1.0, abs=1e-5), name
        assert values[0, 2] < 0.95, name


def test_made_activations_are_those_of_their_token() -> None:
    made = MadeActivations(sites=2, tokens=5000, d=6)
    parts = [x for _, x in made.batches("")]
    whole = [torch.cat(of) for of in zip(*parts, strict=True)]
    index = torch.tensor([4999, 0, TABLE + 3])
    for one, some in zip(whole, made.at(index), strict=True):
        torch.testing.assert_close(one[index], some)
        assert len(one.unique(dim=0)) == len(made) == 5000
