"""Retry requests to a server if what went wrong may pass: a connection that breaks, a server that is busy or down.

nnsight is an extra, so what it brings along is imported where it is used.
"""

import json
import logging
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

# Tries, with 2, 4, 8, ... seconds between them unless the server asks for more: 8.5 minutes in all.
TRIES = 9
MINUTES = sum(2**n for n in range(1, TRIES)) / 60

Answer = TypeVar("Answer")


def with_retries(request: Callable[[], Answer], what: str) -> Answer:
    """Return the answer to a request through nnsight, retrying up to ``TRIES`` times if the failure may pass.

    Raises InputError, which begins with ``what``, if the server refused or the last try failed.
    """

    def warn(state: RetryCallState) -> None:
        logger.warning("%s: %s; trying again in %.0f s", what, _reason(_last_failure(state)), state.upcoming_sleep)

    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(TRIES),
        wait=lambda state: max(wait_exponential(multiplier=2)(state), _retry_after(_last_failure(state))),
        before_sleep=warn,
        reraise=True,
    )
    try:
        return retrying(request)
    except Exception as error:
        failure = _failure(error)
        if failure is None:
            raise
        if not _may_pass(error):
            raise InputError(f"{what}: the server refuses ({error}); what was written stays") from error
        raise InputError(
            f"{what}: failed {TRIES} times within {MINUTES:.1f} minutes, at last with {_reason(failure)}; what was "
            "written stays, run the same command again later"
        ) from error


def _last_failure(state: RetryCallState) -> BaseException | None:
    return _failure(state.outcome.exception()) if state.outcome is not None else None


def _reason(failure: BaseException | None) -> str:
    return f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"


def _failure(error: BaseException | None) -> BaseException | None:
    """Return what went wrong at the server or on the way to it; None for any other error."""
    import httpx
    import pydantic
    import websocket
    from nnsight.intervention.backends.remote import RemoteError

    if isinstance(error, RemoteError):
        return error.__cause__ or error
    if isinstance(error, pydantic.ValidationError | json.JSONDecodeError):
        # If the server closes a web socket, nnsight reads an empty message.
        return ConnectionError("the connection was closed, or the answer is not one of NDIF's")
    return error if isinstance(error, httpx.HTTPError | websocket.WebSocketException | OSError) else None


def _may_pass(error: BaseException) -> bool:
    from nnsight.intervention.backends.remote import RemoteError

    failure = _failure(error)
    if failure is None:
        return False
    # Of an answer of httpx, or of a web socket's handshake.
    status = getattr(getattr(failure, "response", failure), "status_code", None)
    if status is None:
        return not isinstance(failure, RemoteError)  # a job that failed there fails again
    return status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


def _retry_after(failure: Any) -> float:
    """Return the seconds that the server asks to wait in its header Retry-After; 0 if it asks for none."""
    headers = getattr(failure, "resp_headers", None) or getattr(getattr(failure, "response", None), "headers", {})
    seconds = headers.get("retry-after", "")
    return float(seconds) if seconds.isdecimal() else 0.0
