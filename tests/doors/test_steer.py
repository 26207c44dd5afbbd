"""The steer command: both texts side by side, the change of loss, JSON, and what cannot be steered."""

import json

import pytest
import torch

import itda_lightning as il
from itda_lightning.steer import main, steer_texts
from tests.runs import HOOK

PROMPT = "The Senate ratified the treaty"


@pytest.fixture(scope="module")
def used(tiny_run):
    """An atom that is used often, and one that no held-out activation uses."""
    return max(range(20), key=il.load_dictionary(tiny_run).typical_coefficient)


def test_both_texts_are_printed_and_written(tiny_run, used, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text(f"{PROMPT}\n\na second one\n")
    options = {"add": {used: 6.0}, "ablate": [(used + 1) % 20], "max_new_tokens": 8, "device": "cpu"}
    steer_texts(str(tiny_run), prompts=str(tmp_path / "prompts.txt"), output=str(tmp_path / "out.json"), **options)
    out = capsys.readouterr().out
    dictionary = il.load_dictionary(tiny_run)
    expected = [
        il.steered_text(
            il.load_model(dictionary), dictionary, prompt, {used: 6.0}, ablate=[(used + 1) % 20], max_new_tokens=8
        )
        for prompt in (PROMPT, "a second one")
    ]
    assert out.count("before: ") == out.count("after: ") == out.count("KL ") == 2
    assert f"add atom {used}, 6 x its typical coefficient: {dictionary.label(used)[:20]}" in out
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == {"hook_name": HOOK, "texts": [json.loads(one.to_json()) for one in expected]}
    assert expected[0].before != expected[0].after


def test_the_command_line_takes_one_or_several(tiny_run, capsys):
    options = [
        "--add",
        "{3: 1.0}",
        "--clamp",
        "{5: -2.5}",
        "--ablate",
        "1",
        "--swap",
        "{7: 9}",
        "--units",
        "coefficient",
    ]
    main(["--dictionary", str(tiny_run), "--prompt", "a", "--max_new_tokens", "2", "--device", "cpu", *options])
    lines = [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert lines[1:5] == [
        "add atom 3, 1 in coefficients",
        "clamp atom 5 to -2.5 in coefficients",
        "ablate atom 1",
        "swap atom 7 for 9",
    ]


def test_control_characters_do_not_reach_the_terminal(tiny_run, capsys):
    steer_texts(str(tiny_run), "a \x1b[31m red", ablate=[1], max_new_tokens=2, device="cpu")
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "the text '' has no tokens: give some"),
        ({"prompt": "a", "prompts": "b"}, "are both given"),
        ({"prompt": "a"}, "nothing to do: name an atom"),
        ({"prompt": "a", "ablate": [999]}, "there is no atom 999"),
        ({"prompt": "a", "add": {3: float("inf")}}, "must be finite, got inf"),
        ({"prompts": "nothing.txt", "ablate": [1]}, "nothing.txt: no such file"),
        ({"prompt": "a", "ablate": [1], "output": "/proc/none/x.json"}, "while writing /proc/none/x"),
    ],
)
def test_bad_input_is_one_line(tiny_run, options, message):
    with pytest.raises(il.InputError, match=message):
        steer_texts(str(tiny_run), device="cpu", **options)


@pytest.mark.slow
def test_the_bundled_model_is_steered_from_fit_to_text(prose, isolated_cache, bundled_model_dir, monkeypatch):
    monkeypatch.setenv("ITDA_LIGHTNING_CACHE", str(bundled_model_dir.parents[1]))
    settings = {"max_atoms": 24, "k": 4, "context_size": 32, "training_tokens": 512, "validation_tokens": 128}
    settings |= {"calibration_tokens": 128, "cache_dir": None, "progress": False, "refine": None}
    dictionary = il.fit("bundled:smollm2-135m", "blocks.14.hook_resid_post", prose, **settings)
    model = il.load_model(dictionary)
    atom = max(range(dictionary.n_atoms), key=dictionary.typical_coefficient)
    typical = dictionary.typical_coefficient(atom)
    assert 10 < typical < 500
    shown = il.steered_text(model, dictionary, "The treaty of peace", {atom: 6.0}, max_new_tokens=6)
    assert shown.before != shown.after
    assert shown.kl > 0.1
    with il.steer(model, dictionary, {atom: 6.0}):
        again = model.generate("The treaty of peace", max_new_tokens=6, do_sample=False, verbose=False)
    assert again.endswith(shown.after)
    tokens = model.to_tokens("The treaty of peace")
    _, cache = model.run_with_cache(tokens, names_filter="blocks.14.hook_resid_post")
    x = cache["blocks.14.hook_resid_post"][0]
    with il.ablate(model, dictionary, range(dictionary.n_atoms)), torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter="blocks.15.hook_resid_pre")
    left = x - (dictionary(x) - dictionary.bias)
    torch.testing.assert_close(cache["blocks.15.hook_resid_pre"][0, 1:], left[1:], rtol=1e-3, atol=1e-2)
