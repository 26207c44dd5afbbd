"""Every option that holds a list takes a single value for a list of one, in every command, in YAML, nested or not."""

import dataclasses
import typing

import pytest
import yaml
from jsonargparse import Namespace, capture_parser

from itda_lightning import compare, similarity
from itda_lightning.comparison.comparison_settings import EntrySettings
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.machine.parser import OneLineParser
from itda_lightning.machine.single_values import items_of
from tests.doors.test_any_options import DATA, NESTED, WHOLE, check_of, options
from tests.house.test_architecture import DOORS

pytestmark = pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")

ONE_OF = {str: "cka", int: 2, float: 0.5, EntrySettings: {"name": "a", "pca": {}}}
# Lightning's own options are its own affair, and verify takes paths as its arguments.
OWN = [door for door in DOORS if door in WHOLE]


def sample(hint):
    """Return a value of an item's type; for settings, those that need the fewest fields."""
    if typing.get_origin(hint) is typing.Literal:
        return typing.get_args(hint)[0]
    return ONE_OF.get(hint) or {"name": "a", "model": "m", "hook_names": "x"}


def holds_a_list(hint):
    return any(
        typing.get_origin(kind) in (list, tuple) for kind in (hint, *typing.get_args(hint)) if kind is not type(None)
    )


@pytest.mark.parametrize("door", OWN)
def test_every_option_with_a_list_takes_one_value(door):
    parser, found = capture_parser(lambda: check_of(door)([])), []
    for action in parser._actions:
        hint = getattr(action, "_typehint", None)
        if not holds_a_list(hint) or action.dest.startswith("trainer.") or action.dest.endswith(".help"):
            continue
        found.append(action.dest)
        if items := items_of(hint):
            alone = OneLineParser(exit_on_error=False)
            assert type(action) is type(alone.add_argument("--option", type=hint))
            one, many = (alone.parse_object({"option": x}).option for x in (sample(items[0]), [sample(items[0])]))
            assert one == many
        else:  # a single value is one of its types, and the command makes a list of it
            assert {str, int} & set(typing.get_args(hint)), (action.dest, hint)
    expected = {"compare": "entries", "similarity": "models", "decompose": "positions", "steer": "ablate"}
    assert expected.get(door, "data.hook_names" if door in ("fit", "harvest") else None) in [*found, None]


@pytest.mark.parametrize("settings", sorted({one for ways in NESTED.values() for _, one, _ in ways}, key=str))
def test_nested_settings_do_too(settings):
    parser = OneLineParser(exit_on_error=False)
    parser.add_argument("--nested", type=settings | None)
    required = {field.name: "a" for field in dataclasses.fields(settings) if field.default is dataclasses.MISSING}
    required |= {"model": "m", "hook_names": "x"} if settings.__name__ == "ModelSettings" else {}
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        if items := items_of(hints[field.name]):
            one, many = (
                parser.parse_object({"nested": required | {field.name: value}}).nested[field.name]
                for value in (sample(items[0]), [sample(items[0])])
            )
            assert one == many
            assert len(one) == 1
        else:
            assert not holds_a_list(hints[field.name])


def from_yaml(tmp_path, door, content):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    return door.parse([f"--config={tmp_path / 'config.yaml'}"])[0]


def test_a_config_of_similarity_needs_no_lists(tmp_path):
    model = {"name": "a", "model": "m", "hook_names": "blocks.1.hook_resid_post"}
    content = {"data": {"dataset": "d"}, "directory": "o", "models": model, "measures": "cka"}
    settings = from_yaml(tmp_path, similarity, content)
    assert [one.hook_names for one in settings.models] == [["blocks.1.hook_resid_post"]]
    assert settings.measures == ["cka"]
    by_option = similarity.parse([*options({"data.dataset": "d", "directory": "o", "models": model}), "--measures=cka"])
    assert by_option[0] == settings


def test_a_config_of_compare_needs_no_lists(tmp_path):
    data = {name.removeprefix("data."): value for name, value in DATA.items()}
    content = {"data": data, "directory": "o", "entries": ONE_OF[EntrySettings], "probes": {"ks": 2, "datasets": "100"}}
    settings = from_yaml(tmp_path, compare, content)
    assert [entry.name for entry in settings.entries] == ["a"]
    assert (settings.probes.ks, settings.probes.datasets) == ((2,), ("100",))


def test_a_data_config_needs_no_lists(tmp_path):
    hook = "blocks.14.hook_resid_post"
    (tmp_path / "fit.yaml").write_text(yaml.safe_dump({"data": {"model": "m", "dataset": "d", "hook_names": hook}}))
    for name in (hook, "blocks.1"):  # which the other begins with
        assert data_for(None, str(tmp_path / "fit.yaml"), name).hook_names == [name]


@pytest.mark.parametrize("value", ["3x", "null", "[cka, 3]", "{a: 1}"])
def test_what_is_no_item_is_refused(capsys, value):
    parser = OneLineParser()
    parser.add_argument("--names", type=list[str])
    parser.add_argument("--numbers", type=tuple[int, ...], default=())
    assert parser.parse_args(["--names=3", "--numbers=3"]) == Namespace(names=["3"], numbers=(3,))
    assert parser.parse_args(["--names+=a", "--names+=b"]).names == ["a", "b"]
    with pytest.raises(SystemExit):
        parser.parse_args([f"--numbers={value}"])
    assert capsys.readouterr().err.startswith("error: ")
