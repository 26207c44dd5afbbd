"""Check that numbers and choices are in their range; a refusal names what it is, what is allowed and what was given."""

from collections.abc import Collection, Mapping
from typing import Any

from itda_lightning.errors import InputError

Number = int | float

# No count of anything is larger: it fits 64-bit integers and is exact in double precision.
LARGEST = 2**53
# Seeds go to torch, NumPy and Lightning, of which the latter two take 32 bits.
LARGEST_SEED = 2**32 - 1


def check_at_least(least: Number, values: Mapping[str, Number | None], remedy: str = "") -> None:
    """Raise InputError for the first value (name -> value) below ``least``; None passes; ``remedy`` is added.

    Values above 2^53, which nothing can have, are refused as well.
    """
    for name, value in values.items():
        if value is not None and value > LARGEST:
            raise InputError(f"{name} must be at most {LARGEST:,}, got {value:,}")
        if value is not None and not value >= least:
            raise InputError(f"{name} must be at least {least:,}, got {value:,}{remedy and f': {remedy}'}")


def check_between(low: Number, high: Number, values: Mapping[str, Number | None], remedy: str = "") -> None:
    """Raise InputError for the first value (name -> value) outside ``low`` to ``high`` inclusive; None passes."""
    for name, value in values.items():
        if value is not None and not low <= value <= high:
            raise InputError(f"{name} must lie between {low:,} and {high:,}, got {value:,}{remedy and f': {remedy}'}")


def check_kind(kind: type, values: Mapping[str, Any]) -> None:
    """Raise InputError for the first value (name -> value), such as one of a file, that is not of exactly that kind."""
    for name, value in values.items():
        if type(value) is not kind:
            raise InputError(f"{name} must be a {kind.__name__}, got {value!r:.60}")


def check_seed(values: Mapping[str, int | None]) -> None:
    """Raise InputError for the first seed (name -> value) that not every generator of random numbers takes."""
    check_between(0, LARGEST_SEED, values, "it is a seed of 32 bits")


def check_wanted_l0(name: str, l0: float | None, k: int) -> None:
    """Raise InputError for a wanted mean L0 that is not above 0 and at most k; None passes."""
    if l0 is not None and not 0 < l0 <= k:
        raise InputError(f"{name} must be above 0 and at most k = {k}, which is the largest L0, got {l0:g}: raise k")


def check_choice(choices: Collection[str], values: Mapping[str, Any]) -> None:
    """Raise InputError for the first of the values (name -> value) that is not one of ``choices``."""
    for name, value in values.items():
        if value not in choices:
            raise InputError(f"{name} must be one of {tuple(choices)}, got {value!r}")
