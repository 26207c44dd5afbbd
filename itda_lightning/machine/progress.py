"""Progress bars that a caller can hide, and the advertisements of Lightning, which nobody need see."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from itda_lightning.machine.command_line import ADVERTISERS
from itda_lightning.machine.processes import rank

_HIDDEN: ContextVar[bool] = ContextVar("hidden", default=False)


def bars_are_hidden() -> bool:
    """Return True inside of ``quietly(hide_bars=True)``, and in all processes of a run but the first."""
    return rank() > 0 or _HIDDEN.get()


@contextmanager
def quietly(hide_bars: bool) -> Iterator[None]:
    """Silence what Lightning says of itself, and hide progress bars if asked to, until the block ends."""
    loggers = [logging.getLogger(name) for name in ADVERTISERS]
    levels = [logger.level for logger in loggers]
    token = _HIDDEN.set(hide_bars)
    try:
        for logger in loggers:
            logger.setLevel(max(logger.level, logging.WARNING))
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        _HIDDEN.reset(token)
