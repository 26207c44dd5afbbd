"""The decompose command: the table of a text's activations, and what cannot be decomposed."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli
from transformers import AutoTokenizer

from itda_lightning.decompose import decompose_text, main
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.command_line import run_command
from itda_lightning.report.words.wording import show_number
from itda_lightning.saelens import save_export
from tests import by_hand
from tests.processes import run_python
from tests.runs import HOOK, LAYER, OTHER_HOOK, K, fit_tiny
from tests.tiny_model import BOS, LONGEST_CONTEXT, WIDTH

TEXT = "The Senate ratified the treaty of peace."
MINUS = "\N{MINUS SIGN}"
ROW = re.compile(rf"^\s*(\d+)\s+([{MINUS}\d.,]+)\s\s+(\S.*)$")
SUMMARY = re.compile(r"^norm [\d.,]+ \(([\d.,]+) from the dictionary's mean\), ([\d.]+)% unexplained$", re.MULTILINE)


def number(text: str) -> float:
    return float(text.replace(MINUS, "-").replace(",", ""))


def tables(out: str) -> list[tuple[float, float, list[tuple[int, float]]]]:
    """(norm, unexplained, [(atom, coefficient)]) of every table printed."""
    starts = [match.start() for match in SUMMARY.finditer(out)]
    parts = [out[start:stop] for start, stop in zip(starts, [*starts[1:], len(out)], strict=True)]
    found = []
    for part in parts:
        summary = SUMMARY.search(part)
        assert summary is not None
        rows = [match for line in part.splitlines() if (match := ROW.match(line))]
        terms = [(int(row[1]), number(row[2])) for row in rows]
        found.append((number(summary[1]), float(summary[2]) / 100, terms))
    return found


def tokens_of(tiny_model_dir: Path, text: str) -> torch.Tensor:
    ids = AutoTokenizer.from_pretrained(tiny_model_dir)(text, add_special_tokens=False)["input_ids"]
    return torch.tensor([[BOS, *ids]])


def test_the_terms_printed_add_up_to_the_activation(tiny_run, tiny_model_dir, capsys):
    decompose_text(str(tiny_run), TEXT, positions=[0, 3, -1], device="cpu")
    dictionary = load_dictionary(tiny_run)
    x = by_hand.activations(tiny_model_dir, LAYER, tokens_of(tiny_model_dir, TEXT))[0, 1:]
    printed = tables(out := capsys.readouterr().out)
    assert len(printed) == 3
    for position, (norm, unexplained, terms) in zip((0, 3, -1), printed, strict=True):
        centred = x[position] - dictionary.bias
        assert norm == pytest.approx(float(centred.norm()), rel=1e-3)
        assert f"norm {show_number(float(x[position].norm()))} (" in out
        assert 1 <= len(terms) <= K
        sizes = [abs(coefficient) for _, coefficient in terms]
        assert sizes == sorted(sizes, reverse=True)
        x_hat = sum(coefficient * dictionary.atoms[atom] for atom, coefficient in terms)
        share = float((centred - x_hat).square().sum() / centred.square().sum())
        assert share == pytest.approx(unexplained, abs=0.01)
        assert share < 0.9


def test_the_token_is_marked_in_the_text_and_in_the_atoms_prompts(tiny_run, tiny_model_dir, capsys):
    decompose_text(str(tiny_run), TEXT, positions=[1], device="cpu")
    lines = capsys.readouterr().out.splitlines()
    dictionary = load_dictionary(tiny_run)
    marked = re.search(r"\[(.+?)\]", lines[0])
    assert marked is not None
    assert lines[0].startswith("<s>Th")
    assert lines[0].replace("[", "").replace("]", "").startswith(f"<s>{TEXT}"[:20])
    rows = [match for line in lines if (match := ROW.match(line))]
    assert rows
    for row in rows:
        assert dictionary.prompts is not None
        assert f"[{dictionary.prompts[int(row[1])].token}]" in row[3]
    assert max(map(len, lines)) <= 80


def test_the_last_token_is_the_default_and_negative_positions_count_from_the_end(tiny_run, capsys):
    decompose_text(str(tiny_run), TEXT, device="cpu")
    default = capsys.readouterr().out
    decompose_text(str(tiny_run), TEXT, positions=[-1], device="cpu")
    assert capsys.readouterr().out == default
    decompose_text(str(tiny_run), TEXT, positions=[], device="cpu")
    assert capsys.readouterr().out == default


@pytest.mark.parametrize("place", ["dictionaries", "checkpoint", "itda", "matching_pursuit"])
def test_every_form_of_a_dictionary_prints_the_same(tiny_run, tmp_path, capsys, place):
    decompose_text(str(tiny_run), TEXT, device="cpu")
    expected = capsys.readouterr().out
    path = tmp_path / place
    if place == "dictionaries":
        path = tiny_run / place / HOOK
    elif place == "checkpoint":
        path = tiny_run / "checkpoints" / "last.ckpt"
    else:
        save_export(load_dictionary(tiny_run), path, place)
    decompose_text(str(path), TEXT, device="cpu")
    assert capsys.readouterr().out == expected


def test_one_of_several_hook_points(tiny_run_of_two, tiny_model_dir, capsys):
    decompose_text(str(tiny_run_of_two), TEXT, hook_name=OTHER_HOOK, device="cpu")
    ((norm, _, _),) = tables(capsys.readouterr().out)
    x = by_hand.activations(tiny_model_dir, 0, tokens_of(tiny_model_dir, TEXT))[0, -1]
    assert norm == pytest.approx(float((x - load_dictionary(tiny_run_of_two, OTHER_HOOK).bias).norm()), rel=1e-3)
    with pytest.raises(InputError, match="several hook points: give hook_name"):
        decompose_text(str(tiny_run_of_two), TEXT, device="cpu")


@pytest.mark.parametrize(
    "text", ["a [red]b[/red] [/]", "[bold", "{{ x }} \x1b[31m", "שלום 🙂", "\n\n", "null", "[1, 2]", "1.5"]
)
def test_text_is_text(tiny_run, capsys, text):
    arguments = ["--dictionary", str(tiny_run), f"--text={text}", "--positions=-1", "--device=cpu"]
    auto_cli(decompose_text, as_positional=False, args=arguments)
    out = capsys.readouterr().out
    assert len(tables(out)) == 1
    assert "\x1b" not in out
    if text.isascii() and text.isprintable():
        shown = out.splitlines()[0]
        assert any(shown == f"<s>{text[:cut]}[{text[cut:]}]" for cut in range(len(text)))


def test_at_most_so_many_terms(tiny_run, capsys):
    decompose_text(str(tiny_run), TEXT, max_terms=2, device="cpu")
    out = capsys.readouterr().out
    assert len(tables(out)[0][2]) == 2
    assert re.search(r"^and \d more$", out, re.MULTILINE)
    with pytest.raises(InputError, match="--max_terms must be at least 1, got 0"):
        decompose_text(str(tiny_run), TEXT, max_terms=0, device="cpu")


def test_a_text_without_tokens(tiny_run):
    with pytest.raises(InputError, match="the text '' has no tokens: give some"):
        decompose_text(str(tiny_run), "", device="cpu")


def test_a_text_that_is_not_unicode(tiny_run):
    with pytest.raises(InputError, match=r"the text is not Unicode .* give it in UTF-8"):
        decompose_text(str(tiny_run), "a\udcff", device="cpu")


def test_a_text_that_is_too_long_for_the_model(tiny_run):
    with pytest.raises(InputError, match=rf"the text has \d+ tokens but .* at most {LONGEST_CONTEXT}: give a part"):
        decompose_text(str(tiny_run), "word " * 200, device="cpu")


@pytest.mark.parametrize("position", [1000, -1000])
def test_a_position_outside_of_the_text(tiny_run, position):
    with pytest.raises(InputError, match=rf"position {position} is outside the text's \d+ tokens"):
        decompose_text(str(tiny_run), TEXT, positions=[0, position], device="cpu")


def test_without_bos_the_first_token_is_what_the_fit_left_out_and_a_model_that_is_gone_is_named(
    tiny_model_dir, prose_file, tmp_path, capsys
):
    model = shutil.copytree(tiny_model_dir, tmp_path / "model")
    run = fit_tiny(tmp_path / "run", model, prose_file, prepend_bos=False)
    for positions in ([0], [1, 0], [-len(tokens_of(tiny_model_dir, TEXT)[0]) + 1]):
        with pytest.raises(InputError, match=rf"position {positions[-1]} is the first that the model reads"):
            decompose_text(str(run), TEXT, positions=positions, device="cpu")
    capsys.readouterr()
    decompose_text(str(run), TEXT, positions=[1], device="cpu")
    ((norm, _, _),) = tables(capsys.readouterr().out)
    x = by_hand.activations(tiny_model_dir, LAYER, tokens_of(tiny_model_dir, TEXT)[:, 1:])[0, 1]
    assert norm == pytest.approx(float((x - load_dictionary(run).bias).norm()), rel=1e-3)
    shutil.rmtree(model)
    with pytest.raises(InputError, match=r"cannot load the tokenizer of the language model '.*/model'"):
        decompose_text(str(run), TEXT, device="cpu")


def test_a_dictionary_that_does_not_say_what_it_is_of(tiny_run, tmp_path, capsys):
    dictionary = load_dictionary(tiny_run)
    Dictionary(dictionary.atoms, dictionary.bias, k=K).save(tmp_path / "bare")
    with pytest.raises(InputError, match="bare does not name its hook point: give --hook_name"):
        decompose_text(str(tmp_path / "bare"), TEXT, device="cpu")
    with pytest.raises(InputError, match="nothing says which model and documents to use: give --data_config"):
        decompose_text(str(tmp_path / "bare"), TEXT, hook_name=HOOK, device="cpu")
    config = str(tiny_run / "config.yaml")
    decompose_text(str(tmp_path / "bare"), TEXT, hook_name=HOOK, device="cpu", data_config=config)
    bare = capsys.readouterr().out
    decompose_text(str(tiny_run), TEXT, device="cpu")
    assert tables(bare)[0] == tables(capsys.readouterr().out)[0]
    assert "unknown" in bare


def test_a_dictionary_of_another_width(tiny_run, tmp_path):
    atoms = torch.nn.functional.normalize(torch.randn(4, WIDTH + 1), dim=1)
    Dictionary(atoms, k=2, metadata=load_dictionary(tiny_run).metadata).save(tmp_path / "wide")
    with pytest.raises(
        InputError, match=rf"the dictionary has d_in {WIDTH + 1} but {HOOK} of .* has {WIDTH} dimensions: it was fitted"
    ):
        decompose_text(str(tmp_path / "wide"), TEXT, device="cpu")


def test_bad_input_is_one_line_and_exit_code_2(tiny_run, capsys):
    arguments = ["--dictionary", str(tiny_run), "--text", "", "--device", "cpu"]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: auto_cli(decompose_text, as_positional=False, args=arguments))
    assert ended.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "error: the text '' has no tokens: give some\n"


def test_in_a_process_of_its_own(tiny_run, tmp_path):
    arguments = ["--dictionary", str(tiny_run), "--text", TEXT, "--positions", "[0,-1]", "--max_terms", "1"]
    done = run_python("-m", "itda_lightning.decompose", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [len(terms) for _, _, terms in tables(done.stdout)] == [1, 1]
    assert "Warning" not in done.stderr


def test_a_file_of_texts_is_printed_and_written_as_json(tiny_run, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text(f"{TEXT}\n\na second one\n")
    (tmp_path / "texts.jsonl").write_text(json.dumps({"text": TEXT}) + "\n" + json.dumps({"text": "a second one"}))
    decompose_text(str(tiny_run), texts=str(tmp_path / "texts.txt"), device="cpu")
    assert len(tables(capsys.readouterr().out)) == 2
    for file in ("texts.txt", "texts.jsonl"):
        decompose_text(str(tiny_run), texts=str(tmp_path / file), device="cpu", output=str(tmp_path / f"{file}.json"))
    assert capsys.readouterr().out == "".join(
        f"decompositions: {tmp_path / file}.json\n" for file in ("texts.txt", "texts.jsonl")
    )
    written = json.loads((tmp_path / "texts.txt.json").read_text())
    assert written == json.loads((tmp_path / "texts.jsonl.json").read_text())
    assert [one["text"] for one in written["texts"]] == [TEXT, "a second one"]
    shown = load_dictionary(tiny_run).decompose(TEXT)
    assert written["texts"][0] == json.loads(shown.to_json())
    decompose_text(str(tiny_run), TEXT, positions=[-1], device="cpu", output=str(tmp_path / "one.json"))
    (one,) = json.loads((tmp_path / "one.json").read_text())["texts"]
    assert one["tokens"] == written["texts"][0]["tokens"][-1:]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the text '' has no tokens: give some"),
        ({"text": "a", "texts": "b"}, "--text 'a' and --texts 'b' are both given: leave one out"),
        ({"texts": "nowhere.jsonl"}, r"nowhere.jsonl: no such file; give a .txt file with a prompt per line"),
        ({"text": "a", "output": "/proc/none/x"}, "while writing /proc/none/x"),
    ],
)
def test_texts_and_outputs_that_are_none(tiny_run, options, message):
    with pytest.raises(InputError, match=message):
        decompose_text(str(tiny_run), device="cpu", **options)


def test_a_file_without_texts(tiny_run, tmp_path):
    refusals = ((b"\n \n", "holds no prompt: write one per line"), (b"\xff\xfe\xfa", "write it in UTF-8"))
    for content, message in refusals:
        (tmp_path / "texts.txt").write_bytes(content)
        with pytest.raises(InputError, match=message):
            decompose_text(str(tiny_run), texts=str(tmp_path / "texts.txt"), device="cpu")


def test_a_text_may_stand_alone(tiny_run, capsys):
    main(["--dictionary", str(tiny_run), "--text", TEXT])
    expected = capsys.readouterr().out
    for alone in (["--dictionary", str(tiny_run), TEXT], [TEXT, f"--dictionary={tiny_run}", "--positions", "-1"]):
        main(alone)
        assert capsys.readouterr().out == expected
    for two in (["a", "treaty"], ["--text", "a", "treaty"], ["treaty", "--text=a"]):
        with pytest.raises(InputError, match=r"there are two texts, .* among them: quote a text of several words"):
            main(["--dictionary", str(tiny_run), *two])
