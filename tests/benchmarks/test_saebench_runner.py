"""The script of `benchmarks/saebench/` in an environment without SAEBench: what is missing is said before any work."""

import importlib
import sys
from string import ascii_lowercase
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from benchmarks.saebench.judge import Judge
from itda_lightning.errors import InputError

ELSEWHERE = Judge("https://api.example.com/v1", "large")


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    # The script sets it for its own process; here it is put back.
    monkeypatch.setenv("JAXTYPING_DISABLE", "0")
    return importlib.import_module("benchmarks.saebench.run")


@pytest.mark.parametrize(
    ("evals", "judge", "told"),
    [
        (["autointerp"], None, "autointerp needs a judge: give --judge.base_url and --judge.model"),
        (None, None, "autointerp needs a judge"),
        (["autointerp"], ELSEWHERE, "needs a key, but the environment variable OPENAI_API_KEY is not set"),
        (["absorption"], None, "SAEBench cannot be imported .*: make its environment, see README.md here"),
    ],
    ids=["no judge", "all evals and no judge", "no key", "no SAEBench"],
)
def test_what_is_missing_is_said_first(script, tmp_path, monkeypatch, evals, judge, told):
    """Before the dictionary is even looked for, which is not there."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(InputError, match=told):
        script.saebench("nowhere", str(tmp_path / "out"), evals, judge=judge)
    assert not (tmp_path / "out").exists()


def test_a_number_of_words_that_cannot_be_is_said_first(script, tmp_path):
    with pytest.raises(InputError, match="at least one word, got words 0"):
        script.saebench("nowhere", str(tmp_path / "out"), ["absorption"], words=0)


@pytest.mark.parametrize("words", [1, 800])
def test_too_few_words_for_good_probes_are_refused_first(script, tmp_path, words):
    with pytest.raises(InputError, match=rf"probes of 20 letters.*got words {words}: 6,000 gave 22 letters"):
        script.saebench("nowhere", str(tmp_path / "out"), ["absorption"], words=words)
    script.check_words(words, {"min_feats_for_eval": 5})
    script.check_words(801, {})


def test_a_text_that_gives_too_few_tokens_is_refused(script):
    class FirstEvalConfig:
        __dataclass_fields__ = ("model_name", "llm_context_size")

        def __init__(self, model_name: str, llm_context_size: int = 128) -> None:
            self.llm_context_size = llm_context_size

    def load(text: str, length: int, tokens: int, tokenizer: object) -> None:
        asked.append((text, length, tokens))
        assert tokens < 8000

    asked: list[tuple[str, int, int]] = []
    module = SimpleNamespace(
        FirstEvalConfig=FirstEvalConfig, dataset_utils=SimpleNamespace(load_and_tokenize_dataset=load)
    )
    script.check_text(module, "prose", 7000, {"llm_context_size": 64}, None)
    with pytest.raises(InputError, match=r"^prose gives autointerp fewer than the 8,000 tokens of --tokens.*40,000"):
        script.check_text(module, "prose", 8000, {}, None)
    assert asked == [("prose", 64, 7000), ("prose", 128, 8000)]


@pytest.fixture
def absorption(monkeypatch) -> dict[str, Any]:
    """SAEBench's modules with its function of the vocabulary: the one that defines it and two that import its name."""
    modules: dict[str, Any] = {}
    vocabulary = {f"{letter}{number}": number for letter in ascii_lowercase for number in range(100)}

    def get_alpha_tokens(tokenizer: object, allow_leading_space: bool = True) -> list[str]:
        return [*vocabulary] if allow_leading_space else [*reversed(vocabulary)]

    for name in ("vocab", "common", "feature_absorption", "prompting"):
        modules[name] = ModuleType(f"sae_bench.evals.absorption.{name}")
        if name != "prompting":
            modules[name].get_alpha_tokens = get_alpha_tokens
        monkeypatch.setitem(sys.modules, modules[name].__name__, modules[name])
    return modules


def test_absorption_finds_the_same_words_wherever_it_asks_and_only_for_its_time(script, absorption):
    original = absorption["vocab"].get_alpha_tokens
    with script._absorption(SimpleNamespace(run_with_cache=print), 400):
        drawn = [module.get_alpha_tokens(None) for name, module in absorption.items() if name != "prompting"]
        again = absorption["common"].get_alpha_tokens(None, allow_leading_space=False)
        assert "get_alpha_tokens" not in vars(absorption["prompting"])
    assert len(set(drawn[0])) == 400
    assert drawn[0] == drawn[1] == drawn[2] == again, "whatever the vocabulary's order"
    assert all(module.get_alpha_tokens is original for name, module in absorption.items() if name != "prompting")
    with script._absorption(SimpleNamespace(run_with_cache=print), None):
        assert absorption["common"].get_alpha_tokens(None) == sorted(original(None))
    with script._absorption(SimpleNamespace(run_with_cache=print), 10**6):
        assert set(absorption["common"].get_alpha_tokens(None)) == set(original(None))


def test_absorption_runs_the_model_as_far_as_it_reads_it(script, absorption):
    model = SimpleNamespace(run_with_cache=lambda *prompts, **options: (prompts, options))
    original = model.run_with_cache
    hooks = ["blocks.3.hook_resid_post", "blocks.14.hook_resid_post"]
    with script._absorption(model, None):
        assert model.run_with_cache("a", names_filter=hooks) == (("a",), {"names_filter": hooks, "stop_at_layer": 15})
    assert model.run_with_cache is original


def test_too_few_words_for_every_letter_are_refused(script, absorption):
    with (
        script._absorption(SimpleNamespace(run_with_cache=print), 3),
        pytest.raises(InputError, match=r"no word of 3 begins with .*, but .* of the vocabulary's 2600 --words"),
    ):
        absorption["common"].get_alpha_tokens(None)


def test_the_judge_gets_what_saebench_asks_of_another(script):
    """Its request goes to the judge's address and model, unchanged otherwise."""
    made, asked = {}, {}

    def openai(**options: str) -> SimpleNamespace:
        made.update(options)
        completions = SimpleNamespace(create=lambda **request: asked.update(request) or "answer")
        return SimpleNamespace(chat=SimpleNamespace(completions=completions))

    client = script._client(ELSEWHERE, openai)(api_key="secret")
    assert client.chat.completions.create(model="gpt-4o-mini", messages=[], max_tokens=3) == "answer"
    assert made == {"api_key": "secret", "base_url": ELSEWHERE.base_url}
    assert asked == {"model": "large", "messages": [], "max_tokens": 3}


def test_only_the_eval_s_own_names_change_and_only_for_its_time(script):
    original, other = object(), object()
    module = SimpleNamespace(HookedTransformer=original, OpenAI=other)
    model = object()
    with script._given(module, model, None):
        assert module.HookedTransformer.from_pretrained_no_processing("any", device="cpu") is model
        assert module.OpenAI is other
    assert module.HookedTransformer is original
