"""Features in Neuronpedia's format: their schema as its source has it, and their numbers against dense codes."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt
from itda_lightning.errors import InputError
from itda_lightning.evaluation.held_out_codes import codes_of
from itda_lightning.evaluation.neuronpedia_batches import NO_LOGITS, Place, batch, explanation, feature, logit_tables

D, N, ROWS, CONTEXT, K = 6, 9, 7, 5, 3

# NeuronpediaDashboardFeature and NeuronpediaDashboardActivation of SAEDashboard: name -> type, of a list [type].
FEATURE = {
    "feature_index": int,
    "neuron_alignment_indices": [int],
    "neuron_alignment_values": [float],
    "neuron_alignment_l1": [float],
    "correlated_neurons_indices": [int],
    "correlated_neurons_l1": [float],
    "correlated_neurons_pearson": [float],
    "correlated_features_indices": [int],
    "correlated_features_l1": [float],
    "correlated_features_pearson": [float],
    "neg_str": [str],
    "neg_values": [float],
    "pos_str": [str],
    "pos_values": [float],
    "frac_nonzero": float,
    "freq_hist_data_bar_values": [float],
    "freq_hist_data_bar_heights": [float],
    "logits_hist_data_bar_heights": [float],
    "logits_hist_data_bar_values": [float],
    "n_prompts_total": int,
    "n_tokens_in_prompt": int,
    "dataset": str,
    "decoder_weights_dist": [float],
    "activations": [dict],
    "vector": [float],
}
ACTIVATION = {
    "bin_min": float,
    "bin_max": float,
    "bin_contains": float,
    "tokens": [str],
    "values": [float],
    "qualifying_token_index": int,
}
# NeuronpediaDashboardBatch, and the columns of a row of explanations that are not for the importer to give.
BATCH = {"model_id": str, "layer": int, "sae_set": str, "sae_id_suffix": type(None), "features": [dict]}
EXPLANATION = {
    "modelId": str,
    "layer": str,
    "index": str,
    "description": str,
    "typeName": type(None),
    "explanationModelName": type(None),
}
OF_ONE_LENGTH = [
    ("neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1"),
    ("correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson"),
    ("correlated_features_indices", "correlated_features_l1", "correlated_features_pearson"),
    ("neg_str", "neg_values"),
    ("pos_str", "pos_values"),
    ("freq_hist_data_bar_values", "freq_hist_data_bar_heights"),
    ("logits_hist_data_bar_values", "logits_hist_data_bar_heights"),
]


def check_schema(content: dict, schema: dict) -> None:
    assert set(content) == set(schema)
    for name, kind in schema.items():
        if isinstance(kind, list):
            assert type(content[name]) is list, name
            assert {type(item) for item in content[name]} <= set(kind), name
        else:
            assert type(content[name]) is kind, name


def check_batch(content: dict) -> None:
    """The types, and that lists that belong together are of one length."""
    check_schema(content, BATCH)
    for made in content["features"]:
        check_schema(made, FEATURE)
        for names in OF_ONE_LENGTH:
            assert len({len(made[name]) for name in names}) == 1, names
        for activation in made["activations"]:
            check_schema(activation, ACTIVATION)
            assert len(activation["tokens"]) == len(activation["values"]) == made["n_tokens_in_prompt"]
            value = activation["values"][activation["qualifying_token_index"]]
            if activation["bin_contains"] == -1:
                assert activation["bin_min"] == -1
                assert abs(value) <= activation["bin_max"] + 1e-9
            else:
                assert activation["bin_min"] - 1e-3 <= value <= activation["bin_max"] + 1e-3
                assert 0 < activation["bin_contains"] <= made["frac_nonzero"] + 1e-12


def measured(seed: int, sizes: list[int] | None = None, nonnegative: bool = False):
    """(dictionary, codes, dense codes (rows, context, n)); position 0 is not encoded, as in a fit."""
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64), dim=1)
    atoms[-1] = torch.eye(D, dtype=torch.float64)[0]
    atoms[:-1, 0] = 0  # and the activations have nothing there, so the last atom is dead
    dictionary = Dictionary(torch.nn.functional.normalize(atoms, dim=1), k=K, nonnegative=nonnegative)
    x = torch.randn(ROWS, CONTEXT, D, generator=generator, dtype=torch.float64)
    x[..., 0] = 0
    row, position = (
        part.flatten() for part in torch.meshgrid(torch.arange(ROWS), torch.arange(CONTEXT), indexing="ij")
    )
    table = torch.zeros(ROWS * CONTEXT, 6, dtype=torch.int64)
    table[:, 1], table[:, 2] = row, position
    kept = position > 0
    flat, table = x.reshape(-1, D)[kept], table[kept]
    sizes = sizes or [len(flat)]
    codes = codes_of(dictionary, zip(flat.split(sizes), table.split(sizes), strict=True))
    dense = torch.zeros(ROWS * CONTEXT, N, dtype=torch.float64)
    dense[kept] = dictionary.encode(flat).to_dense(N)
    return dictionary, codes, dense.view(ROWS, CONTEXT, N)


TEXTS = [[f"r{row}p{position} " for position in range(CONTEXT)] for row in range(ROWS)]


def features_of(dictionary, codes, logits=NO_LOGITS, top=3, per_interval=2) -> list[dict]:
    return [
        feature(atom, dictionary.atoms[atom], codes, TEXTS, logits, "prose", top=top, per_interval=per_interval)
        for atom in range(N)
    ]


@given(st.integers(0, 10_000), st.booleans(), st.integers(0, 4), st.integers(0, 3))
def test_features_have_the_schema_and_the_numbers_of_dense_codes(seed, nonnegative, top, per_interval):
    dictionary, codes, dense = measured(seed, nonnegative=nonnegative)
    made = features_of(dictionary, codes, top=top, per_interval=per_interval)
    check_batch(batch(Place("tiny", 3, "itda"), made))
    for atom, content in enumerate(made):
        of_atom = dense[..., atom]
        used = of_atom[of_atom != 0]
        assert content["frac_nonzero"] == pytest.approx(len(used) / (ROWS * (CONTEXT - 1)))
        assert sum(content["freq_hist_data_bar_heights"]) == len(used)
        best = used.abs().sort(descending=True).values[:top].tolist()
        shown = [part for part in content["activations"] if part["bin_contains"] == -1]
        found = [abs(part["values"][part["qualifying_token_index"]]) for part in shown]
        assert found == pytest.approx(best, abs=1e-3)
        for part in content["activations"]:
            row = int(part["tokens"][0][1 : part["tokens"][0].index("p")])
            assert part["tokens"] == TEXTS[row]
            assert part["values"] == pytest.approx(of_atom[row].tolist(), abs=1e-3)
            assert part["values"][0] == 0
        low, high = min(0.0, used.min().item() if len(used) else 0), max(0.0, used.max().item() if len(used) else 0)
        for part in content["activations"][len(shown) :]:
            inside = (used > part["bin_min"] - 1e-3) & (used <= part["bin_max"] + 1e-3)
            assert part["bin_contains"] <= float(inside.double().mean()) * content["frac_nonzero"] + 1e-9
            assert low - 1e-3 <= part["bin_min"] < part["bin_max"] <= high + 1e-3
            assert part["bin_max"] - part["bin_min"] == pytest.approx((high - low) / 5, abs=2e-3)
        if nonnegative:
            assert min([0.0, *(value for part in content["activations"] for value in part["values"])]) == 0


def test_a_dead_atom_is_empty_and_still_a_feature():
    dictionary, codes, _ = measured(0)
    dead = features_of(dictionary, codes)[-1]
    assert (dead["frac_nonzero"], dead["activations"], dead["freq_hist_data_bar_heights"]) == (0.0, [], [])
    assert dead["neuron_alignment_indices"][0] == 0
    assert dead["neuron_alignment_values"][0] == dead["neuron_alignment_l1"][0] == 1.0
    assert dead["vector"] == [1.0] + [0.0] * (D - 1)


@settings(max_examples=settings.default.max_examples // 3 or 1)
@example(3, [1, 1, 1])
@given(st.integers(0, 100), st.lists(st.integers(1, 9), min_size=1, max_size=4))
def test_batches_of_any_size_give_the_same_features(seed, sizes):
    total, sizes = ROWS * (CONTEXT - 1), [*sizes]
    while sum(sizes) > total:
        sizes.pop()
    sizes = [*sizes, total - sum(sizes)] if sum(sizes) < total else sizes
    (dictionary, whole, _), (_, cut, _) = measured(seed), measured(seed, sizes)
    assert features_of(dictionary, whole) == features_of(dictionary, cut)


def test_every_interval_that_has_tokens_shows_some_and_shares_add_up():
    dictionary, codes, dense = measured(2)
    for atom, content in enumerate(features_of(dictionary, codes, top=0, per_interval=100)[:-1]):
        shares = {(part["bin_min"], part["bin_contains"]) for part in content["activations"]}
        assert math.fsum(share for _, share in shares) == pytest.approx(content["frac_nonzero"])
        assert len(content["activations"]) == int((dense[..., atom] != 0).sum())
        lows = [part["bin_min"] for part in content["activations"]]
        assert lows == sorted(lows, reverse=True)


def test_tokens_are_those_of_the_largest_and_smallest_logits():
    dictionary, codes, _ = measured(0)
    logits = torch.tensor([0.5, -2.0, 3.0, 0.0])
    made = features_of(dictionary, codes, next(logit_tables(logits[None], ["a", "b", "c", "d"])))[0]
    assert (made["pos_str"], made["pos_values"]) == (["c", "a", "d", "b"], [3.0, 0.5, 0.0, -2.0])
    assert (made["neg_str"], made["neg_values"]) == (["b", "d", "a", "c"], [-2.0, 0.0, 0.5, 3.0])
    assert sum(made["logits_hist_data_bar_heights"]) == 4
    values = made["logits_hist_data_bar_values"]
    assert (values[0], values[-1]) == (-1.95, 2.95)
    check_batch(batch(Place("tiny", 3, "itda"), [made]))


def test_values_that_are_all_the_same_have_a_histogram():
    dictionary, codes, _ = measured(0)
    made = features_of(dictionary, codes, next(logit_tables(torch.full((1, 4), 2.0), ["a"] * 4)))[0]
    assert made["logits_hist_data_bar_heights"][0] == 4
    assert set(made["logits_hist_data_bar_values"]) == {2.0}


def test_an_explanation_names_the_source_of_an_atom():
    row = explanation(Place("gpt2-small", 8, "itda"), 7, Prompt("x" * 100 + " the", " Senate", " met" + "y" * 100))
    check_schema(row, EXPLANATION)
    assert (row["modelId"], row["layer"], row["index"]) == ("gpt2-small", "8-itda", "7")
    assert row["description"] == f"the activation of [[ Senate]] in: {'x' * 76} the[[ Senate]] met{'y' * 76}"

    refined = explanation(Place("m", 8, "itda"), 7, Prompt("", "a", ""), 0.92399)
    assert refined["description"] == "refined, cosine 0.923 with the activation of [[a]] in: [[a]]"


def test_nothing_to_measure_on_is_said():
    with pytest.raises(InputError, match="no held-out activations to measure on"):
        codes_of(Dictionary(torch.eye(3), k=1), [])
