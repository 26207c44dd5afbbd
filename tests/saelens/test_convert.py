"""Dictionaries to SAELens and back, through its files."""

import inspect
import json

import pytest
import torch
from sae_lens import SAE
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig

from itda_lightning.errors import InputError
from itda_lightning.saelens import from_sae, to_sae
from tests.saelens.conftest import HOOK, assert_same

EXPORTABLE = [
    ("itda", "mp", False),
    ("itda", "mp", True),
    ("itda", "omp", False),
    ("itda", "omp", True),
    ("matching_pursuit", "mp", False),
    ("matching_pursuit", "mp", True),
]


@pytest.mark.parametrize(("architecture", "pursuit", "nonnegative"), EXPORTABLE)
def test_an_export_comes_back_as_it_was(make_dictionary, tmp_path, architecture, pursuit, nonnegative):
    dictionary = make_dictionary(pursuit=pursuit, nonnegative=nonnegative)
    to_sae(dictionary, architecture).save_model(tmp_path)
    assert_same(from_sae(SAE.load_from_disk(tmp_path)), dictionary)


@pytest.mark.parametrize(("architecture", "pursuit", "nonnegative"), EXPORTABLE)
def test_a_loaded_export_gives_the_codes_of_the_dictionary(
    make_dictionary, activations, tmp_path, architecture, pursuit, nonnegative
):
    dictionary = make_dictionary(pursuit=pursuit, nonnegative=nonnegative)
    to_sae(dictionary, architecture).save_model(tmp_path)
    sae = SAE.load_from_disk(tmp_path)
    codes = sae.encode(activations).detach()
    if codes.shape[1] == 48:
        codes = codes[:, :24] - codes[:, 24:]
    expected = dictionary.encode(activations).to_dense(24)
    assert torch.equal(codes != 0, expected != 0)
    torch.testing.assert_close(codes, expected)
    torch.testing.assert_close(sae(activations), dictionary(activations))


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_a_dictionary_without_sources_stays_without(make_dictionary, tmp_path, architecture):
    dictionary = make_dictionary(sources=False)
    to_sae(dictionary, architecture).save_model(tmp_path)
    loaded = from_sae(SAE.load_from_disk(tmp_path))
    assert loaded.sources is None
    assert_same(loaded, dictionary)


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_sources_survive_half_precision(make_dictionary, tmp_path, architecture):
    dictionary = make_dictionary()
    to_sae(dictionary, architecture).to(dtype=torch.bfloat16).save_model(tmp_path)
    loaded = from_sae(SAE.load_from_disk(tmp_path))
    assert loaded.atoms.dtype == loaded.bias.dtype == torch.float32
    torch.testing.assert_close(loaded.atoms.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(loaded.atoms, dictionary.atoms, rtol=0, atol=2**-8)
    assert torch.equal(loaded.source_table, dictionary.source_table)
    assert loaded.prompts == dictionary.prompts


def test_the_sae_is_a_copy(make_dictionary):
    dictionary = make_dictionary()
    sae = to_sae(dictionary)
    kept = dictionary.atoms.clone()
    with torch.no_grad():
        sae.W_dec.zero_()
        sae.b_dec.zero_()
    sae.cfg.metadata.itda["metadata"]["fit"]["τ"] = 2
    assert torch.equal(dictionary.atoms, kept)
    assert dictionary.bias.any()
    assert dictionary.metadata["fit"] == {"τ": 0.1}


def test_spare_capacity_is_not_exported(make_dictionary):
    assert to_sae(make_dictionary(capacity=100)).cfg.d_sae == 24


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_metadata_is_what_the_tools_of_saelens_expect(make_dictionary, architecture):
    metadata = to_sae(make_dictionary(), architecture).cfg.metadata
    assert (metadata.hook_name, metadata.model_name, metadata.context_size) == (HOOK, "tiny", 8)
    assert metadata.prepend_bos is False
    bare = to_sae(make_dictionary(metadata={}), architecture).cfg.metadata
    assert bare.prepend_bos is True
    assert bare.context_size == 128
    assert bare.model_from_pretrained_kwargs == {}
    assert bare.model_class_name == "HookedTransformer"
    unset = to_sae(make_dictionary(metadata={"prepend_bos": None, "context_size": None}), architecture).cfg.metadata
    assert (unset.prepend_bos, unset.context_size) == (True, 128)


def test_what_cannot_be_exported_is_refused(make_dictionary):
    with pytest.raises(InputError, match=r"'omp' cannot be exported as 'matching_pursuit'.*use architecture='itda'"):
        to_sae(make_dictionary(pursuit="omp"), "matching_pursuit")
    with pytest.raises(InputError, match=r"no atoms yet: fit it"):
        to_sae(make_dictionary(n=0))
    with pytest.raises(InputError, match=r"metadata is not JSON.*not JSON serializable"):
        to_sae(make_dictionary(metadata={"when": {1, 2}}))


def test_an_unknown_architecture_is_refused(make_dictionary):
    # Unwrapped, because under pytest the annotation would refuse it first.
    with pytest.raises(InputError, match=r"architecture must be one of \('itda', .*got 'standard'"):
        inspect.unwrap(to_sae)(make_dictionary(), "standard")


def stock_sae(**flags):
    sae = MatchingPursuitSAE(MatchingPursuitSAEConfig(d_in=16, d_sae=24, **flags))
    with torch.no_grad():
        sae.W_dec.copy_(torch.nn.functional.normalize(torch.randn(24, 16), dim=1))
    return sae


def test_a_trained_sae_becomes_a_nonnegative_dictionary_with_the_same_codes(activations):
    sae = stock_sae(max_iterations=4, residual_threshold=0.0, stop_on_duplicate_support=False)
    sae.cfg.metadata.hook_name = HOOK
    dictionary = from_sae(sae)
    assert (dictionary.k, dictionary.pursuit, dictionary.nonnegative) == (4, "mp", True)
    assert dictionary.sources is None
    assert dictionary.metadata["hook_name"] == HOOK
    torch.testing.assert_close(dictionary.encode(activations).to_dense(24), sae.encode(activations))
    torch.testing.assert_close(dictionary(activations), sae(activations))


def test_a_trained_sae_without_a_budget_has_that_of_its_width():
    sae = stock_sae(max_iterations=None, residual_threshold=0.0, stop_on_duplicate_support=False)
    assert from_sae(sae).k == 16


def test_without_a_bias_at_the_input_the_dictionary_has_none(activations):
    sae = stock_sae(
        max_iterations=4, residual_threshold=0.0, stop_on_duplicate_support=False, apply_b_dec_to_input=False
    )
    sae.b_dec.data.fill_(3.0)
    torch.testing.assert_close(from_sae(sae)(activations), sae(activations))


@pytest.mark.parametrize(
    "flags",
    [{"residual_threshold": 0.01, "stop_on_duplicate_support": False}, {"residual_threshold": 0.0}],
    ids=["threshold", "duplicates"],
)
def test_a_trained_sae_that_stops_early_is_refused(flags):
    with pytest.raises(InputError, match=r"stops early \(residual_threshold=0.*sae.cfg.residual_threshold = 0"):
        from_sae(stock_sae(**flags))


def test_normalised_inputs_are_refused():
    sae = stock_sae(residual_threshold=0.0, stop_on_duplicate_support=False, normalize_activations="layer_norm")
    with pytest.raises(InputError, match=r"normalize_activations='layer_norm'.*fold it first"):
        from_sae(sae)


def test_rows_that_are_not_unit_are_refused():
    sae = stock_sae(residual_threshold=0.0, stop_on_duplicate_support=False)
    sae.W_dec.data[3] *= 2
    with pytest.raises(InputError, match=r"is not a dictionary: atoms must be unit rows: row 3 has norm 2"):
        from_sae(sae)


def test_another_architecture_is_refused():
    with pytest.raises(InputError, match=r"architecture 'standard' is not a dictionary: give one of"):
        from_sae(StandardSAE(StandardSAEConfig(d_in=4, d_sae=8)))


def test_an_export_that_was_changed_is_refused(make_dictionary):
    sae = to_sae(make_dictionary(), "matching_pursuit")
    sae.W_dec.data[30] = sae.W_dec.data[0]
    with pytest.raises(InputError, match=r"48 rows .* are not \[D; -D\].*export the dictionary again"):
        from_sae(sae)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda content: content.update(version=99),
            "metadata.itda has version 99, this package reads up to 3: upgrade",
        ),
        (lambda content: content.pop("sources"), r"metadata.itda is not what this package writes \(KeyError"),
        (lambda content: content["sources"]["row"].pop(), "metadata.itda is not what this package writes"),
        (lambda content: content["prompts"].pop(), "23 prompts for 24 sources"),
        (
            lambda content: [column.pop() for column in [*content["sources"].values(), content["prompts"]]],
            "23 sources for",
        ),
    ],
)
def test_damaged_provenance_is_refused(make_dictionary, change, message):
    sae = to_sae(make_dictionary())
    change(sae.cfg.metadata.itda)
    with pytest.raises(InputError, match=message):
        from_sae(sae)


def test_a_foreign_entry_of_our_name_is_refused(make_dictionary):
    sae = to_sae(make_dictionary())
    sae.cfg.metadata.itda = "yes"
    with pytest.raises(InputError, match=r"metadata.itda is not what this package writes"):
        from_sae(sae)


def test_the_configuration_is_plain_json(make_dictionary, tmp_path):
    to_sae(make_dictionary()).save_model(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    assert (config["architecture"], config["k"], config["pursuit"], config["nonnegative"]) == ("itda", 5, "mp", False)
    assert config["metadata"]["itda"]["sources"]["end"][0] == 2**60 + 1
