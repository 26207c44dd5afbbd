"""Requests to a server, made again where what went wrong passes: a connection that breaks, a server that is busy or down.

What nnsight brings along is imported where it is used, since it is an extra.
"""

import json
import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from itda_lightning.errors import InputError

logger = logging.getLogger(__name__)

# Seconds before the second try and so on, unless the server asks for more: 8.5 minutes in all.
WAITS = tuple(2.0**n for n in range(1, 9))
TOO_MANY_REQUESTS, SERVER_FAILS = 429, 500

Answer = TypeVar("Answer")


def with_retries(request: Callable[[], Answer], what: str) -> Answer:
    """What a request through nnsight gives; it is made again after each of ``WAITS`` where the failure may pass.

    Args:
        request: makes the request.
        what: says in messages which one.

    Raises:
        InputError: the server refused, or the last try failed.
    """
    waits = iter(WAITS)
    while True:
        try:
            return request()
        except Exception as error:
            failure = _failure(error)
            if failure is None:
                raise
            if not _passes(failure):
                raise InputError(f"{what}: the server refuses ({error}); what was written stays") from error
            reason = f"{type(failure).__name__}: {str(failure).partition(chr(10))[0]}"
            wait = next(waits, None)
            if wait is None:
                raise InputError(
                    f"{what}: failed {len(WAITS) + 1} times within {sum(WAITS) / 60:.1f} minutes, at last with {reason}; "
                    "what was written stays, run the same command again later"
                ) from error
            wait = max(wait, _asked_to_wait(failure))
            logger.warning("%s: %s; trying again in %.0f s", what, reason, wait)
            time.sleep(wait)


def _failure(error: Exception) -> BaseException | None:
    """What went wrong on the way to the server or there; None for anything else."""
    import httpx
    import pydantic
    import websocket
    from nnsight.intervention.backends.remote import RemoteError

    if isinstance(error, RemoteError):
        return error.__cause__ or error
    if isinstance(error, pydantic.ValidationError | json.JSONDecodeError):
        # What a web socket gives that the server closes is an empty message to nnsight.
        return ConnectionError("the connection was closed, or the answer is not one of NDIF's")
    return error if isinstance(error, httpx.HTTPError | websocket.WebSocketException | OSError) else None


def _passes(failure: BaseException) -> bool:
    from nnsight.intervention.backends.remote import RemoteError

    status = _status(failure)
    if status is None:
        return not isinstance(failure, RemoteError)  # a job that failed there fails again
    return status == TOO_MANY_REQUESTS or status >= SERVER_FAILS


def _status(failure: Any) -> int | None:
    """The HTTP status of an answer, of httpx or of the handshake of a web socket."""
    return getattr(getattr(failure, "response", failure), "status_code", None)


def _asked_to_wait(failure: Any) -> float:
    """Seconds that the server asks to wait in its header Retry-After; 0 where it asks for none."""
    headers = getattr(failure, "resp_headers", None) or getattr(getattr(failure, "response", None), "headers", {})
    asked = headers.get("retry-after", "")
    return float(asked) if asked.isdecimal() else 0.0
