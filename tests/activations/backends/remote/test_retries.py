"""Requests that fail for reasons that may pass are retried; a harvest resumes after the last whole file."""

import socket
from pathlib import Path
from typing import Any

import pytest

from itda_lightning.activations.backends.remote import retries
from itda_lightning.errors import InputError
from tests.activations.backends.remote.ndif import FakeNDIF
from tests.activations.backends.streaming import files


def test_what_passes_is_tried_again_after_longer_and_longer_waits(
    run, ndif: FakeNDIF, waits: list[float], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ndif.faults = [
        ("handshake", 503), ("post", 500), "drop", ("post", 429), ("handshake", 429), None, None, ("post", 429), None,
    ]  # fmt: skip
    run()
    assert waits == [2, 4, 8, 16, 32, 7]  # the server asked for 7 seconds
    assert len(ndif.jobs) == 5
    assert ndif.faults == []
    for told in (
        "384 tokens: WebSocketBadStatusException: Handshake status 503 ",
        "384 tokens: HTTPStatusError: Server error '500 ",
        "384 tokens: ConnectionError: the connection was closed, or ",
        "; trying again in 8 s",
        "256 tokens: HTTPStatusError: Client error '429 ",
    ):
        assert told in caplog.text
    ndif.faults = []
    run(backend="in_memory", data__cache_dir=tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_a_server_that_goes_away_ends_the_run_and_the_next_goes_on(
    run, ndif: FakeNDIF, waits: list[float], tmp_path: Path
) -> None:
    ndif.faults = [None] * 3 + ["drop"] * 9
    with pytest.raises(
        InputError, match=r"^96 tokens: failed 9 times within 8.5 minutes, at last with ConnectionError: the con.*again"
    ):
        run()
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256]
    ndif.jobs.clear()
    run()
    assert ndif.jobs == [(6, 16), (8, 16)]  # the first file was there
    run(backend="in_memory", data__cache_dir=tmp_path / "whole")
    assert files(tmp_path / "cache") == files(tmp_path / "whole")


def test_nobody_is_there(run, ndif: FakeNDIF, waits: list[float], nnsight, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(nnsight.CONFIG.API, "HOST", f"http://127.0.0.1:{free.getsockname()[1]}")
        with pytest.raises(
            InputError, match=r"asking http://127.0.0.1:\d+ what it serves: failed 9 times .*ConnectionError"
        ):
            run()
    assert len(waits) == 8


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("fails", r"384 tokens: the server refuses \(out of memory\); what was written stays"),
        (("post", 400), r"384 tokens: the server refuses \(Failed to send request: by order\)"),
        (("handshake", 401), r"384 tokens: the server refuses \(Handshake status 401 "),
    ],
)
def test_what_does_not_pass_is_not_tried_again(run, ndif: FakeNDIF, waits: list[float], fault: Any, said: str) -> None:
    ndif.faults = [fault]
    with pytest.raises(InputError, match=said):
        run()
    assert waits == []


def test_a_bug_is_no_failure_of_the_network(waits: list[float]) -> None:
    with pytest.raises(ZeroDivisionError):
        retries.with_retries(lambda: 1 // 0, "a division")
    assert waits == []
