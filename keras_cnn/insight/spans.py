"""The span of input positions that each position of an axis sees: how it goes through windows, and how spans join."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

Span = tuple[float, float]  # the first and last input position; (inf, -inf) where there is none

EVERYTHING: Span = (-math.inf, math.inf)


@dataclass(frozen=True)
class Field:
    """Position i sees `spans[i]`, and position i + len(spans) the same, `shift` input positions on.

    Several spans only where positions differ in what they see: behind an upsampling they do, by turns.
    """

    spans: tuple[Span, ...]
    shift: int

    def at(self, i: int) -> Span:
        turns, place = divmod(i, len(self.spans))
        first, last = self.spans[place]
        return first + turns * self.shift, last + turns * self.shift

    @cached_property
    def size(self) -> float:
        return max(last - first + 1 for first, last in self.spans)

    @property
    def jump(self) -> Fraction:
        return Fraction(self.shift, len(self.spans))


@dataclass(frozen=True)
class Window:
    """Output i looks at the input positions `seen(i)`; output i + outs at the same ones, `ins` further on."""

    seen: Callable[[int], Iterable[int]]
    outs: int
    ins: int


def start_field() -> Field:
    """Of the input: each position sees itself."""
    return Field(((0, 0),), 1)


def everywhere(jump: Fraction | int) -> Field:
    jump = Fraction(jump)
    return Field((EVERYTHING,) * jump.denominator, jump.numerator)


def enclosing(spans: Iterable[Span]) -> Span:
    firsts, lasts = zip((math.inf, -math.inf), *spans, strict=True)  # an output may see nothing, in a gap of zeros
    return min(firsts), max(lasts)


def through(field: Field, window: Window) -> Field:
    """What the outputs of a window see."""
    repeats = len(field.spans) // math.gcd(len(field.spans), window.ins)
    shift = field.shift * (window.ins * repeats // len(field.spans))
    spans = (enclosing(map(field.at, window.seen(i))) for i in range(window.outs * repeats))
    return Field(tuple(spans), shift)


def union(fields: tuple[Field, ...], lengths: tuple[int | None, ...]) -> Field:
    """What a sum of maps sees, or whatever else joins them position by position; maps of length 1 are repeated.

    Maps that lie on each other with unlike jumps, as where one was brought to another's size, have no turns in which
    they repeat: their positions are counted out. ArithmeticError where that would need a length that is not known.
    """
    if any(field.size == math.inf for field in fields):
        return everywhere(max(field.jump for field in fields))
    repeated = 1 in lengths and set(lengths) != {1}
    jump = min(field.jump for field, n in zip(fields, lengths, strict=True) if n != 1 or not repeated)
    if not repeated and all(field.jump == jump for field in fields):
        count = math.lcm(*(len(field.spans) for field in fields))
    elif None in lengths:
        raise ArithmeticError
    else:
        count = math.lcm(max(n for n in lengths if n), jump.denominator)
    seen = [lambda i, f=f, n=n: f.at(0 if repeated and n == 1 else i) for f, n in zip(fields, lengths, strict=True)]
    spans = tuple(enclosing(at(i) for at in seen) for i in range(count))
    return Field(spans, int(jump * count))
