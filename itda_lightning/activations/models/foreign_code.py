"""Load models without running code that comes with them, whatever their files or the packages that load them ask for.

The name of a model may come from the metadata of a dictionary that somebody else made, so there is no option for it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from transformers import dynamic_module_utils

from itda_lightning.errors import InputError


@contextmanager
def no_foreign_code(model: str) -> Iterator[None]:
    """Raise InputError if a model of `transformers` needs code of its own; nobody is asked and nothing of it runs."""

    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise _refusal(model)

    # All ways lead through the first, also with an explicit trust_remote_code of TransformerLens; the second would ask.
    changed = {"get_class_in_module": refuse, "TIME_OUT_REMOTE_CODE": 0}
    before = {name: getattr(dynamic_module_utils, name) for name in changed}
    vars(dynamic_module_utils).update(changed)
    try:
        yield
    except ValueError as error:
        if isinstance(error, InputError) or "trust_remote_code" not in str(error):
            raise
        raise _refusal(model) from error
    finally:
        vars(dynamic_module_utils).update(before)


def _refusal(model: str) -> InputError:
    return InputError(
        f"the language model {model!r} comes with code of its own, which is never run: give a model whose architecture "
        "`transformers` has, converted if need be"
    )
