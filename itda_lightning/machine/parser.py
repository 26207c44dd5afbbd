"""The parser of every command: a refusal is one line, and a config is plain data of a reasonable shape."""

import sys
from types import NoneType
from typing import Any, NoReturn, get_args

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from itda_lightning.errors import InputError
from itda_lightning.machine.single_values import Group, ListsOfOne

LONGEST_REFUSAL = 600  # characters
DEEPEST, LARGEST = 64, 100_000  # levels and values of a config

_load = get_loader("yaml")


class OneLineParser(ListsOfOne, ArgumentParser):
    """A parser that refuses in one line with exit code 2, whatever a value is, and reads YAML by ``load_config``."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._group_class = Group  # of the options of classes and functions
        set_loader("yaml", load_config, (yaml.YAMLError,))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Write the message as one line and exit with code 2."""
        if not self.exit_on_error:
            super().error(message, ex)
        line = " ".join(message.split())
        if len(line) > LONGEST_REFUSAL:
            line = f"{line[: LONGEST_REFUSAL // 2]} ... {line[-LONGEST_REFUSAL // 2 :]}"
        sys.stderr.write(f"error: {line} (--help explains the options)\n")
        sys.exit(2)

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Validate as ``ArgumentParser`` does, which takes null for any option; here its type must have it."""
        super().validate(namespace, *args, **kwargs)
        for action in self._actions:
            hint = getattr(action, "_typehint", None)
            if hint in (None, Any) or action.default is None or NoneType in get_args(hint):
                continue
            if namespace.get(action.dest, action.default) is None:
                raise TypeError(f'Parser key "{action.dest}": null is none of its values, leave it out for its default')

    def parse_args(self, *args: Any, **kwargs: Any) -> Namespace:  # type: ignore[override]  # jsonargparse adds options of its own
        """Parse as ``ArgumentParser`` does; what a value makes a library raise is a refusal, too."""
        try:
            return super().parse_args(*args, **kwargs)
        except InputError:
            raise
        except (ValueError, OverflowError, RecursionError, OSError, yaml.YAMLError) as error:
            self.error(f"an option or a config cannot be read ({type(error).__name__}: {error})", error)

    def instantiate_classes(self, *args: Any, **kwargs: Any) -> Namespace:
        """Make the objects of a parsed command line. Raises InputError for what their settings refuse."""
        try:
            return super().instantiate_classes(*args, **kwargs)
        except InputError:
            raise
        except ValueError as error:  # the parser wraps what nested settings refuse
            raise error.__cause__ if isinstance(error.__cause__, InputError) else InputError(str(error)) from error


def load_config(text: str) -> Any:
    """Load YAML as jsonargparse does, after ``check_shape``. Raises ``yaml.YAMLError``."""
    check_shape(text)
    try:
        return _load(text)
    except (ValueError, OverflowError) as error:  # e.g. a number of thousands of digits
        raise yaml.YAMLError(str(error)) from error


def check_shape(text: str) -> None:
    """Raise ``yaml.YAMLError`` for a mapping with a key given twice, and for what is too deep or too large to be meant.

    YAML readers take the last of equal keys without a word; aliases of aliases can stand for more values than memory
    holds. Events are read one by one, so no depth of nesting is too much for this check itself.
    """
    sizes: dict[str, int] = {}  # anchor -> values that it stands for
    open_collections: list[_Collection] = []
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.CollectionEndEvent):
            closed = open_collections.pop()
            size, anchor = closed.size, closed.anchor
        elif isinstance(event, yaml.CollectionStartEvent):
            if open_collections:
                open_collections[-1].take(event)
            open_collections.append(_Collection(event))
            if len(open_collections) > DEEPEST:
                raise _refused(f"nested more than {DEEPEST} levels deep", event)
            continue
        elif isinstance(event, yaml.NodeEvent):
            size = sizes.get(str(event.anchor), 1) if isinstance(event, yaml.AliasEvent) else 1
            anchor = None if isinstance(event, yaml.AliasEvent) else event.anchor
            if open_collections:
                open_collections[-1].take(event)
        else:
            continue
        if anchor is not None:
            sizes[str(anchor)] = size
        if open_collections:
            open_collections[-1].size += size
        if size > LARGEST:
            raise _refused(f"more than {LARGEST:,} values", event)


class _Collection:
    """A mapping or sequence whose end has not been read: the values in it, and a mapping's keys."""

    def __init__(self, event: yaml.CollectionStartEvent) -> None:
        self.size, self.anchor = 1, event.anchor
        self._keys: set[str] | None = set() if isinstance(event, yaml.MappingStartEvent) else None
        self._is_key = True

    def take(self, event: yaml.NodeEvent) -> None:
        """Note the start of the next key or value."""
        if self._keys is None:
            return
        if self._is_key and isinstance(event, yaml.ScalarEvent) and event.value != "<<":
            if event.value in self._keys:
                raise _refused(f"the key {event.value!r} is given twice in one section, join the two", event)
            self._keys.add(event.value)
        self._is_key = not self._is_key


def _refused(problem: str, event: yaml.Event) -> yaml.YAMLError:
    line = "" if event.start_mark is None else f" in line {event.start_mark.line + 1}"
    return yaml.YAMLError(f"{problem}{line}")
