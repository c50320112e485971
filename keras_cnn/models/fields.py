"""Values from people and from files, held to what the code was written for: names, kinds, bounds, choices."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import math
import reprlib
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from keras_cnn.errors import BadSpec, UnknownOption
from keras_cnn.models.hints import HINTS, VALUES

Public = TypeVar("Public", bound=Callable[..., Any])


def known_options(public: Public, further: Callable[[], Iterable[str]] = tuple) -> Public:
    """Of a function or a dataclass: refuse a keyword that it does not have, and say what to write instead.

    Its signature stays what it was, for people, editors and type checkers.
    further: the names that a function with `**keywords` takes there.
    """
    name = public.__name__
    given = public.__init__ if isinstance(public, type) else public
    parameters = inspect.signature(public).parameters.values()
    options = [p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD]

    @functools.wraps(given)
    def checked(*args: Any, **keywords: Any) -> Any:
        for option, value in keywords.items():
            if option not in options and option not in further():
                raise UnknownOption(f"{name} has no option {option!r}: {instead(name, option, options, further())}")
            if isinstance(value, str) and (hint := VALUES.get((name, option, value))):
                raise UnknownOption(f"{name}: {option}={value!r} is no value here: {hint}.")
        return given(*args, **keywords)

    if isinstance(public, type):
        public.__init__ = checked
        return cast(Any, public)
    return cast(Any, checked)


def instead(name: str, option: str, options: list[str], further: Iterable[str] = ()) -> str:
    """What to write instead of an unknown option: what is known of the word, or of the nearest one; else all options,
    those further ones left out."""
    hints = HINTS.get(name, {})
    words = [*options, *hints, *further]
    near = [option] if option in hints else difflib.get_close_matches(option.lower(), words, 1, 0.7)
    if not near:
        return f"it has {', '.join(options)}."
    return f"{hints[near[0]].format(near[0])}." if near[0] in hints else f"did you mean {near[0]!r}?"


def conform(record: Any) -> None:
    """Hold a dataclass to its annotations, lists turned into their tuples; BadSpec names the field.

    What Python itself would find out later, where nobody knows any more which file or keyword was wrong.
    """
    for name, kind in _kinds(type(record)).items():
        object.__setattr__(record, name, held_to(name, getattr(record, name), kind))


@cache
def _kinds(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def held_to(name: str, value: Any, kind: Any) -> Any:
    """The value of a field, lists in it as tuples; BadSpec where it is not of the annotated kind."""
    try:
        return _as_kind(value, kind)
    except (TypeError, OverflowError):
        raise BadSpec(f"{name}={reprlib.repr(value)}: give {_in_words(kind)}.") from None


def _as_kind(value: Any, kind: Any) -> Any:
    """The value, any list in it as a tuple; TypeError where it is of another kind."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if NoneType in parts:
        return None if value is None else _as_kind(value, parts[0])
    if origin is tuple and isinstance(value, Iterable) and not isinstance(value, str | bytes | Mapping):
        values = tuple(value)
        kinds = parts[:1] * len(values) if parts[-1] is Ellipsis else parts
        if len(values) == len(kinds):
            return tuple(map(_as_kind, values, kinds))
    elif kind is Any or (origin is not tuple and _is_one(value, origin)):
        return value
    raise TypeError


def _is_one(value: Any, kind: type) -> bool:
    if kind is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    if kind is float:  # neither NaN nor infinite; a whole number beyond every float is an OverflowError
        return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind)


WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", Mapping: "an object"}


def _in_words(kind: Any) -> str:
    """A kind of value as it is asked for: "a list, each entry a whole number"."""
    origin, parts = get_origin(kind) or kind, get_args(kind)
    if NoneType in parts:
        return f"{_in_words(parts[0])} or None"
    if origin is tuple and parts[-1] is Ellipsis:
        return f"a list, each entry {_in_words(parts[0])}"
    if origin is tuple:
        return f"a list of {len(parts)}: {', '.join(map(_in_words, parts))}"
    return WORDS.get(origin, f"a {origin.__name__}")


def written(name: str, value: Any, deepest: int = 20) -> None:
    """BadSpec unless every text in a value of JSON can be written down, and nothing lies deeper than any fact does."""
    if isinstance(value, str) and not value.isprintable():  # the cheap question first
        try:
            value.encode()
        except UnicodeEncodeError:
            raise BadSpec(f"{name}={value[:40]!a} holds half a character, which is no text.") from None
    if isinstance(value, Mapping | list | tuple):
        if not deepest:
            raise BadSpec(f"{name}: give facts that are not nested so deeply.")
        inner = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
        for one in inner:
            written(name, one, deepest - 1)


def several(name: str, values: Iterable[str]) -> tuple[str, ...]:
    """Names as a tuple; BadSpec for a single text, whose letters Python would take for them."""
    if isinstance(values, str):
        raise BadSpec(f"{name}={reprlib.repr(values)} is one text: give a list of names, such as [{values[:40]!r}].")
    return tuple(values)


def within(name: str, value: Any, least: float, most: float) -> None:
    """BadSpec unless a number, or every number of a tuple, lies between the bounds."""
    values = value if isinstance(value, tuple) else (value,)
    if not all(least <= n <= most for n in values):
        numbers = "numbers" if isinstance(value, tuple) else "a number"
        raise BadSpec(f"{name}={reprlib.repr(value)}: give {numbers} from {least} to {most}.")


def one_of(name: str, value: Any, choices: tuple[Any, ...]) -> None:
    if value not in choices:
        raise BadSpec(f"{name}={reprlib.repr(value)}: choose one of {', '.join(map(repr, choices))}.")
