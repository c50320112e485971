"""Which layers of a network a stage, a regular expression or a share of the parameters selects.

Told from names and sizes alone, so that `info` knows what freezing leaves to learn without a framework.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

from keras_cnn.errors import BadSpec

Sizes = Mapping[str, int]  # learned parameters of each layer by its name, from the stem upwards

CLASSIFIERS = ("head", "aux")  # what ends in classes
LOGITS = "head_logits/kernel"  # the key of the classifier's weights


def parse(what: str | float) -> dict[str, Any]:
    """What `build(freeze=...)` and `info --freeze` are given, as a keyword of `freeze`.

    >>> parse("stage2"), parse("stage[12]_.*"), parse("0.5"), parse(0.5)
    ({'upto': 'stage2'}, {'match': 'stage[12]_.*'}, {'fraction': 0.5}, {'fraction': 0.5})
    """
    try:
        return {"fraction": float(what)}
    except ValueError:
        # No name of a stage holds more than letters and digits, and every name of a layer does: `stage2_conv`.
        return {"upto" if str(what).isalnum() else "match": what}


def stage_of(layer: str) -> str:
    """The stage of a layer: the first token of its name."""
    return layer.partition("_")[0]


def of_decoder(name: str) -> bool:
    """Whether a layer, a key of an array or a stage is of a decoder, which leads back to the image's size."""
    return re.fullmatch(r"decoder\d+", stage_of(name)) is not None


def on_top(name: str) -> bool:
    """Whether a layer, a key of an array or a stage stands on top of the backbone, and is no part of it."""
    return stage_of(name) in CLASSIFIERS or of_decoder(name)


def of_classes(name: str) -> bool:
    """Whether a layer, or a key, is made anew for other classes: the head, and an auxiliary classifier's output."""
    return stage_of(name) == "head" or name.startswith("aux_logits")


def of_auxiliary(name: str) -> bool:
    """Whether a layer, or a key, is of the auxiliary classifier."""
    return stage_of(name) == "aux"


def optional(key: str) -> bool:
    """Whether weights may lack an array: an auxiliary classifier, and what fuses concatenations (it starts as sums)."""
    return of_auxiliary(key) or "_fuse/" in key


def first_kernel(keys: Iterable[str]) -> str | None:
    """The key of the kernel that sees the image's channels."""
    return next((key for key in keys if key.startswith("stem_conv") and key.endswith("/kernel")), None)


def is_ours(keys: Iterable[str]) -> bool:
    """Whether keys of arrays follow this grammar: only we name layers by their stage."""
    return any(key.startswith("stage") for key in keys)


def stages(layers: Iterable[str]) -> list[str]:
    """Stages from the stem upwards, then a decoder's, downwards; the classifiers last, though Keras lists an auxiliary
    one below the top, and a decoder's skips where they begin."""
    found = dict.fromkeys(map(stage_of, layers))
    decoder = sorted(filter(of_decoder, found), key=lambda name: int(name.removeprefix("decoder")))
    return [*(name for name in found if not on_top(name)), *decoder, *(name for name in CLASSIFIERS if name in found)]


def lower(
    sizes: Sizes, upto: str | None = None, *, match: str | None = None, fraction: float | None = None
) -> set[str]:
    """What `freeze` freezes: the stages up to and including `upto`, by default the backbone; the layers whose names
    match; or the first layers of the backbone that hold at most `fraction` of its parameters.

    >>> sorted(lower({"stem_conv": 10, "stage1_conv": 40, "stage1_norm": 10, "head_logits": 20}, fraction=0.9))
    ['stage1_conv', 'stem_conv']
    """
    _check_alone(upto=upto, match=match, fraction=fraction)
    if match is not None:
        return _matching(sizes, match)
    if fraction is not None:
        return _first(_backbone(sizes), fraction)
    return set(_backbone(sizes)) if upto is None else _up_to(sizes, upto)


def upper(
    sizes: Sizes, above: str | None = None, *, match: str | None = None, fraction: float | None = None
) -> set[str]:
    """What `unfreeze` unfreezes: the stages above `above`, by default all; the layers whose names match; or the
    classifiers and the last layers of the backbone that hold at most `fraction` of its parameters.
    """
    _check_alone(above=above, match=match, fraction=fraction)
    if match is not None:
        return _matching(sizes, match)
    if fraction is not None:
        backbone = _backbone(sizes)
        return _first(dict(reversed(backbone.items())), fraction) | (sizes.keys() - backbone)
    return set(sizes) if above is None else sizes.keys() - _up_to(sizes, above)


def _backbone(sizes: Sizes) -> dict[str, int]:
    return {layer: size for layer, size in sizes.items() if not on_top(layer)}


def _up_to(sizes: Sizes, stage: str) -> set[str]:
    names = stages(sizes)
    if stage not in names:
        raise BadSpec(f"there is no stage {stage!r}: this network has {', '.join(names)}.")
    lowest = names[: names.index(stage) + 1]
    return {layer for layer in sizes if stage_of(layer) in lowest}


def _matching(sizes: Sizes, pattern: str) -> set[str]:
    weighted = [layer for layer, size in sizes.items() if size]
    such = f"layers are named like {', '.join([*weighted[:1], *weighted[len(weighted) // 2 :][:1], *weighted[-1:]])}."
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise BadSpec(f"{pattern!r} is not a regular expression ({error}): {such}") from None
    if not any(map(expression.fullmatch, weighted)):
        raise BadSpec(f"{pattern!r} matches no layer with weights: {such}")
    return {layer for layer in sizes if expression.fullmatch(layer)}


def _first(sizes: Sizes, fraction: float) -> set[str]:
    """The first layers that hold at most a share of all parameters: whole layers, up to the first that is too much."""
    if not 0 < fraction <= 1:
        raise BadSpec(f"{fraction:g} is no share of the parameters: give a number above 0 and at most 1.")
    most = fraction * sum(sizes.values())
    return {layer for layer, held in zip(sizes, accumulate(sizes.values()), strict=True) if held <= most}


def _check_alone(**given: Any) -> None:
    """At most one way to select."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise BadSpec(f"{' and '.join(names)} are given: select by one of {', '.join(given)}.")
