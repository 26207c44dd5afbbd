"""Which model and documents a dictionary is looked at with."""

import logging
import shutil

import pytest
import torch
import yaml

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import add_prompts, data_for, load_with_data
from itda_lightning.fitting.loading import load_dictionary
from tests.runs import CONTEXT, HOOK, OTHER_HOOK, VALIDATION_ROWS
from tests.tiny_model import save_weights


@pytest.fixture
def dictionary(tiny_run) -> Dictionary:
    return load_dictionary(tiny_run)


@pytest.fixture
def config(tiny_run, tmp_path):
    """Write the run's config with other data settings; None takes one out."""

    def write(**changes: object) -> str:
        content = yaml.safe_load((tiny_run / "config.yaml").read_text())
        content["data"] = {key: value for key, value in (content["data"] | changes).items() if value is not None}
        path = tmp_path / "other.yaml"
        path.write_text(yaml.safe_dump(content))
        return str(path)

    return write


def test_the_settings_of_the_fit_give_its_rows(dictionary, tiny_run, config):
    data = data_for(dictionary, None, HOOK, "cpu")
    assert data.hparams["device"] == "cpu"
    rows = data.rows("heldout")
    assert rows.tokens.shape == (VALIDATION_ROWS, CONTEXT)
    of_config = data_for(None, str(tiny_run / "config.yaml"), HOOK).rows("heldout")
    assert of_config.fingerprint() == rows.fingerprint()
    other_seed = data_for(dictionary, config(seed=5), HOOK).rows("heldout")
    assert other_seed.fingerprint() != rows.fingerprint()


def test_held_out_tokens_are_as_many_as_the_settings_say_or_more(dictionary):
    for asked, got in ((0, VALIDATION_ROWS), (CONTEXT, VALIDATION_ROWS), (40 * CONTEXT, 40)):
        assert len(data_for(dictionary, None, HOOK, validation_tokens=asked).rows("heldout")) == got


def test_the_hook_point_is_among_those_read(dictionary, tiny_run_of_two):
    assert data_for(dictionary, None, OTHER_HOOK).hook_names == [OTHER_HOOK]
    # A cache is valid for all the hook points of its fit together.
    both = load_dictionary(tiny_run_of_two, HOOK)
    assert data_for(both, None, HOOK).hook_names == [OTHER_HOOK, HOOK]


def test_activations_are_never_written_where_a_dictionary_says(dictionary, config, tmp_path, isolated_cache):
    strange = tmp_path / "strange"
    dictionary.metadata["data"]["cache_dir"] = str(strange)
    data = data_for(dictionary, None, HOOK)
    for read in (data, data.with_settings(seed=1)):
        assert read.cache("train").path.parent == isolated_cache / "activations"
    data.prepare_data()
    assert not strange.exists()
    # A cache that is there is read, and a user's own config is obeyed.
    shutil.move(isolated_cache / "activations", strange)
    again = data_for(dictionary, None, HOOK)
    again.prepare_data()
    assert (again.harvested_tokens, again.cache("heldout").path.parent) == (0, strange)
    wanted = data_for(dictionary, config(cache_dir=str(tmp_path / "wanted")), HOOK)
    assert wanted.cache("train").path.parent == tmp_path / "wanted"


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"context_size": "16"}, "context_size: expected int, got '16'"),
        ({"shuffle": "x"}, "shuffle: expected bool, got 'x'"),
        ({"hook_names": HOOK}, "hook_names: expected a list, got 'blocks"),
        ({"loader": 3}, "loader: expected str, got 3"),
        ({"model": None}, "model: expected str, got None"),
    ],
)
def test_a_setting_of_another_type(dictionary, setting, told):
    dictionary.metadata["data"] |= setting
    with pytest.raises(InputError, match=rf"^the data section is damaged: {told}.*; give --data_config$"):
        data_for(dictionary, None, HOOK)


def test_nothing_says_what_to_read(dictionary):
    bare = Dictionary(dictionary.atoms, k=2)
    for held in (None, bare):
        with pytest.raises(InputError, match="nothing says which model and documents to use: give --data_config"):
            data_for(held, None, HOOK)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"cannot read the config .*foreign.yaml"),
        ("a: [", r"cannot read the config .*foreign.yaml"),
        ("\x00", r"cannot read the config .*foreign.yaml"),
        ("data: {}\nmodel: 3\ndata: {}", r"cannot read the config .*foreign.yaml: the key 'data' is given twice"),
        ("just text", r"foreign.yaml has no data section: give a config of itda_lightning.fit"),
        ("model: 3", r"foreign.yaml has no data section"),
        ("data: [1]", r"foreign.yaml has no data section"),
        ("data: {}", r"data section of .*foreign.yaml names no model: give data.model"),
        ("data: {model: 3}", r"data section of .*foreign.yaml names no model"),
        ("data: {model: a}", r"lacks a setting or has an unknown one: .*'dataset'"),
        ("data: {model: a, dataset: b, colour: red}", r"has an unknown one: .*'colour'"),
        ("data: {model: a, dataset: b, context_size: 2}", r"data.context_size must be at least 4, got 2"),
        ("data: {model: a, dataset: b, packing: loose}", r"data.packing must be one of .*'loose'"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_foreign_config(tmp_path, text, message):
    path = tmp_path / "foreign.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        data_for(None, str(path), HOOK)


def test_another_model_is_refused(dictionary, config, tiny_model_dir, tmp_path):
    other = shutil.copytree(tiny_model_dir, tmp_path / "other")
    save_weights(other, seed=1)
    with pytest.raises(InputError, match=r"fitted on the model '.*tiny_model0' but .* names another, '.*other'"):
        data_for(dictionary, config(model=str(other)), HOOK)


def test_the_same_model_at_another_place_is_the_same(dictionary, config, tiny_model_dir, tmp_path, caplog):
    copy = shutil.copytree(tiny_model_dir, tmp_path / "copy")
    with caplog.at_level(logging.WARNING):
        assert data_for(dictionary, config(model=str(copy)), HOOK).model_name.name == str(copy)
    assert caplog.text == ""


def test_a_model_that_was_moved_is_taken_with_a_warning(dictionary, config, tiny_model_dir, tmp_path, caplog):
    moved = shutil.copytree(tiny_model_dir, tmp_path / "moved")
    dictionary.metadata["data"]["model"] = "somewhere/else"
    with caplog.at_level(logging.WARNING):
        assert data_for(dictionary, config(model=str(moved)), HOOK).model_name.name == str(moved)
    assert "fitted on the model 'somewhere/else'" in caplog.text
    assert "is unknown" in caplog.text


def test_the_hook_point_of_a_dictionary(dictionary, config, tiny_run, tmp_path):
    loaded, hook, data = load_with_data(str(tiny_run), None, None, "cpu")
    assert torch.equal(loaded.atoms, dictionary.atoms)
    assert (hook, data.hook_names) == (HOOK, [HOOK])
    bare = tmp_path / "bare"
    Dictionary(dictionary.atoms, k=2).save(bare)
    _, hook, data = load_with_data(str(bare), OTHER_HOOK, config(), "cpu")
    assert (hook, data.hook_names) == (OTHER_HOOK, [OTHER_HOOK])
    with pytest.raises(InputError, match="bare does not name its hook point: give --hook_name"):
        load_with_data(str(bare), None, config(), "cpu")


def test_the_atoms_of_a_checkpoint_get_their_prompts_back(dictionary, tiny_run):
    checkpoint = load_dictionary(tiny_run / "checkpoints" / "last.ckpt")
    assert checkpoint.prompts is None
    assert torch.equal(checkpoint.source_table, dictionary.source_table)
    add_prompts(checkpoint, data_for(checkpoint, None, HOOK))
    assert checkpoint.prompts == dictionary.prompts


def test_prompts_are_not_guessed_from_other_rows(tiny_run, config):
    checkpoint = load_dictionary(tiny_run / "checkpoints" / "last.ckpt")
    add_prompts(checkpoint, data_for(checkpoint, config(seed=9), HOOK))
    assert checkpoint.prompts is None
    bare = Dictionary(checkpoint.atoms, k=2)
    add_prompts(bare, data_for(checkpoint, None, HOOK))
    assert bare.prompts is None
