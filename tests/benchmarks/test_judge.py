"""Who judges explanations: what is missing is said before any work."""

import pytest

from benchmarks.saebench.judge import Judge
from itda_lightning.errors import InputError


def test_a_judge_elsewhere_needs_its_key(monkeypatch):
    judge = Judge("https://api.example.com/v1", "judge-large", "JUDGE_KEY")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(
        InputError, match=r"https://api.example.com/v1 needs a key, but .* JUDGE_KEY is not set: set it"
    ):
        judge.key()
    monkeypatch.setenv("JUDGE_KEY", " secret\n")
    assert judge.key() == "secret"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_a_local_judge_needs_none_but_may_have_one(monkeypatch, host):
    judge = Judge(f"http://{host}:8000/v1", "any", "JUDGE_KEY")
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    assert judge.key()
    monkeypatch.setenv("JUDGE_KEY", "mine")
    assert judge.key() == "mine"


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://example.com", "http://"])
def test_an_address_that_is_none(url):
    with pytest.raises(InputError, match=r"an address of http or https.*got "):
        Judge(url, "judge")


def test_no_model():
    with pytest.raises(InputError, match="which model of http://localhost:8000/v1 is to judge"):
        Judge("http://localhost:8000/v1", "")
