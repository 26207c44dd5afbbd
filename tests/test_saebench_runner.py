"""The script of `benchmarks/saebench/` in an environment without SAEBench: what is missing is said before any work."""

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from itda_lightning.errors import InputError
from itda_lightning.evaluation.judge import Judge

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "saebench" / "run.py"
ELSEWHERE = Judge("https://api.example.com/v1", "large")


@pytest.fixture
def script(monkeypatch) -> ModuleType:
    # The script sets it for its own process; here it is put back.
    monkeypatch.setenv("JAXTYPING_DISABLE", "0")
    spec = importlib.util.spec_from_file_location("saebench_run", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
