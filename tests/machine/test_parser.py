"""Configs are plain data of a reasonable shape; refusals of the parser are one line."""

import re

import pytest
import yaml

from itda_lightning.comparison.comparison_settings import RandomSettings
from itda_lightning.machine.parser import DEEPEST, LONGEST_REFUSAL, OneLineParser, load_config


@pytest.mark.parametrize(
    "text",
    ["a: 1\nb: {a: 1}", "- a\n- a", "x: &x {a: 1}\ny: {<<: *x, a: 2}", "[&a b, *a, *a]", "3", "a", "", "{a, b}"],
)
def test_ordinary_configs_are_loaded_as_before(text):
    loaded = load_config(text)
    assert loaded == (text if text == "{a, b}" else yaml.safe_load(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {k: 3}\ndata: {}\nmodel: {k: 4}", "the key 'model' is given twice in one section, join the two"),
        ("model:\n  k: 3\n  k: 4", "the key 'k' is given twice"),
        ("- {a: 1, b: [2], a: 3}", "the key 'a' is given twice"),
        ("[" * 3000, f"nested more than {DEEPEST} levels deep"),
        ("{a: " * 100 + "}" * 100, f"nested more than {DEEPEST} levels deep"),
        (
            "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)),
            "more than 100,0",
        ),
        ("9" * 5000, "Exceeds the limit"),
    ],
)
def test_what_cannot_be_meant_is_refused(text, message):
    with pytest.raises(yaml.YAMLError, match=re.escape(message)):
        load_config(text)


def refusal(capsys, parser, arguments):
    with pytest.raises(SystemExit) as ended:
        parser.parse_args(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_a_refusal_is_one_line(capsys, tmp_path):
    parser = OneLineParser(prog="x")
    parser.add_argument("--n", type=int | None | list[int], required=True)
    parser.add_argument("--config", action="config")
    assert "many" in refusal(capsys, parser, ["--n", "many"])
    assert "n" in refusal(capsys, parser, [])
    assert "--m" in refusal(capsys, parser, ["--n", "3", "--m", "4"])
    assert len(refusal(capsys, parser, ["--n", "x" * 10_000])) < LONGEST_REFUSAL + 60
    for name, content in {"deep": b"[" * 3000, "twice": b"n: 1\nn: 2", "latin": b"n: \xe9", "none": b"\0"}.items():
        (tmp_path / name).write_bytes(content)
        refusal(capsys, parser, ["--config", str(tmp_path / name)])
    assert parser.parse_args(["--n", "3"]).n == 3


def test_null_is_a_value_only_where_the_type_says_so(capsys, tmp_path):
    parser = OneLineParser(prog="x")
    parser.add_argument("--config", action="config")
    parser.add_argument("--n", type=int, default=3)
    parser.add_argument("--m", type=int | None, default=4)
    parser.add_argument("--fit", type=RandomSettings | None)
    (tmp_path / "null.yaml").write_text("n: null")
    assert 'key "n": null is none of its values' in refusal(capsys, parser, ["--config", str(tmp_path / "null.yaml")])
    assert "null" in refusal(capsys, parser, ["--fit", "{n_atoms: 3, k: null}"])
    assert parser.parse_args(["--m", "null", "--fit", "{n_atoms: 3, l0: null}"]).m is None
