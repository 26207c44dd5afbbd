"""Steer a language model by atoms while it runs, and take atoms out of it."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from itda_lightning.activations.models.editing import edited
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.atom_edits import AtomEdits


@contextmanager
def steer(
    model: Any,
    dictionary: Dictionary,
    add: Mapping[int, float | None] | None = None,
    *,
    clamp: Mapping[int, float] | None = None,
    ablate: Iterable[int] = (),
    swap: Mapping[int, int] | None = None,
    units: str = "typical",
    skip_first: bool = True,
    hook_name: str | None = None,
) -> Iterator[AtomEdits]:
    """Steer a language model by atoms for as long as the block runs, in every forward pass, with a cache or without.

    An activation is what its code explains plus an error. Only the shares of the atoms named here change: coefficients
    are added to, set, or taken out; whatever else explains the activation, and the error, stay.

    Args:
        model: TransformerLens's bridge or HookedTransformer, or a model of `transformers`, such as that of
            ``il.load_model(dictionary)``.
        dictionary: of that model.
        add: atom -> strength to add to every activation; a negative one steers away from the label. None takes the atom
            out, as ``ablate``.
        clamp: atom -> strength that its coefficient is set to in every activation, whether the code uses it or not.
        ablate: atoms to take out of the codes that use them.
        swap: atom -> the one that takes its place in the codes that use it.
        units: "typical": a strength of 1 is the atom's typical coefficient (``dictionary.typical_coefficient``); or
            "coefficient".
        skip_first: leave the first token of each text alone, whose activation dwarfs all others.
        hook_name: where; None for the hook point of the dictionary's fit.

    Yields:
        The edits: ``tokens`` that they saw, and of each atom to clamp, ablate or swap in how many codes it ``fired``.

    Raises:
        InputError: nothing to do, no such atom, a strength that is not finite, another kind of model, one of another
            width or without the hook point, an atom whose typical use is unknown.

    Warns:
        UserWarning: at the end, of atoms to ablate or swap that were in no code.

    Example:
        >>> import itda_lightning as il
        >>> # model = il.load_model(dictionary)
        >>> # with il.steer(model, dictionary, {174: 2.0}):
        >>> #     print(model.generate("The treaty", max_new_tokens=20))
    """
    edits = AtomEdits(dictionary, add or {}, clamp or {}, ablate, swap or {}, units, skip_first)
    with edited(model, hook_of(dictionary, hook_name), edits, dictionary.d_in):
        yield edits
    for atom in edits.never_fired():
        warnings.warn(unused(edits, atom), stacklevel=3)


class SteeringModule(ModuleType):
    """The module of the command ``steer``: imported, it takes the place of ``il.steer``, and is called like it."""

    __call__ = staticmethod(steer)


def ablate(model: Any, dictionary: Dictionary, atoms: int | Iterable[int], **options: Any) -> Any:
    """Take atoms out of the codes that use them for as long as the block runs: ``steer`` with nothing else.

    Args:
        model: as of ``steer``.
        dictionary: of that model.
        atoms: one or several.
        options: ``skip_first`` and ``hook_name`` of ``steer``.

    Returns:
        The context manager. Raises and warns as ``steer``.

    Example:
        >>> import itda_lightning as il
        >>> # with il.ablate(model, dictionary, [12, 90]) as edits:
        >>> #     model.generate("The treaty", max_new_tokens=20)
        >>> # edits.fired
    """
    listed = list(atoms) if isinstance(atoms, Iterable) else [atoms]
    return steer(model, dictionary, ablate=listed, **options)


def hook_of(dictionary: Dictionary, hook_name: str | None) -> str:
    """Return the hook point given, or that of the dictionary. Raises InputError if neither is known."""
    dictionary.check_one_site()
    hook: str | None = hook_name or dictionary.metadata.get("hook_name")
    if hook is None:
        raise InputError("the dictionary does not name its hook point: give hook_name")
    return hook


def unused(edits: AtomEdits, atom: int) -> str:
    """Return the words for an atom that was in no code."""
    label = edits.dictionary.label(atom)
    return f"atom {atom}, {label}, is in no code of the {edits.tokens:,} tokens read: taking it out changed nothing"
