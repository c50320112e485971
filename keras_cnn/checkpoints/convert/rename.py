"""Renaming and re-laying arrays between our keys and a foreign checkpoint's.

A format's rules go from our layer names to theirs, so a table is complete on our side by construction:
a key of ours without a rule, or without its array, is an error, and so is an array that nothing asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from keras_cnn.checkpoints.arrays import Arrays, report
from keras_cnn.errors import WeightsMismatch
from keras_cnn.models import naming
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import Preprocess

if TYPE_CHECKING:
    import numpy as np

Shapes = Mapping[str, tuple[int, ...]]
# (pattern of our whole layer name, their name: a string, or a function of the pattern's numbers)
Rules = list[tuple[str, str | Callable[..., str]]]


@dataclass(frozen=True)
class Format:
    """How one source names and lays out its arrays.

    rules: for a Backbone, the rename table. names: our variable names to theirs. separator: between layer and variable.
    to_ours: layout, given (array, wanted shape, our key, Backbone); to_theirs: (array, our key, Backbone).
    preprocess, class_names: what its networks expect of an image, for a file that comes without a configuration;
        the first, given (Backbone, the file's arrays), since some files hold it.
    ignored: pattern of foreign keys that hold nothing for prediction.
    numerics: fields of the Backbone in which the source computes otherwise than the architecture's default.
    constants: our variables that the source does without, and the value that stands for them.
    canonical: the file's keys as the rules know them, where its own are not fixed.
    """

    name: str
    rules: Callable[[Backbone], Rules]
    names: Mapping[str, str]
    separator: str
    to_ours: Callable[[np.ndarray, tuple[int, ...], str, Backbone], np.ndarray]
    to_theirs: Callable[[np.ndarray, str, Backbone], np.ndarray]
    preprocess: Callable[[Backbone, Mapping[str, Any]], Preprocess]
    class_names: tuple[str, ...] = ()
    ignored: str = r"(?!)"
    numerics: Callable[[Backbone], Mapping[str, Any]] = lambda backbone: {}
    constants: Callable[[Backbone], Mapping[str, float]] = lambda backbone: {}
    canonical: Callable[[Mapping[str, Any], Backbone], Mapping[str, Any]] = lambda state, backbone: state

    def key(self, ours: str, rules: Rules) -> str | None:
        """Their key for one of ours, or None where no rule speaks of it."""
        layer, variable = ours.split("/")
        for pattern, theirs in rules:
            if found := re.fullmatch(pattern, layer):
                name = theirs if isinstance(theirs, str) else theirs(*map(int, found.groups()))
                return f"{name}{self.separator}{self.names[variable]}"
        return None


def to_ours(state: Mapping[str, np.ndarray], backbone: Backbone, shapes: Shapes, fmt: Format) -> Arrays:
    """A foreign checkpoint under our keys and layouts; WeightsMismatch lists every key that does not fit.

    A file may do without the head or the auxiliary classifier: then the arrays do, too.
    """
    import numpy as np

    state, rules, constants = fmt.canonical(state, backbone), fmt.rules(backbone), fmt.constants(backbone)
    wanted = {ours: fmt.key(ours, rules) for ours in shapes}
    parts = {part: [k for k in wanted if naming.stage_of(k) == part] for part in naming.CLASSIFIERS}  # there or not
    absent = [part for part, keys in parts.items() if not any(wanted[key] in state for key in keys)]
    wanted = {ours: theirs for ours, theirs in wanted.items() if naming.stage_of(ours) not in absent}
    values, lines = {}, []
    for ours, theirs in wanted.items():
        if theirs is not None and theirs not in state and _variable(ours) in constants:
            values[ours] = np.full(shapes[ours], constants[_variable(ours)], "float32")
            continue
        if theirs is None or theirs not in state:
            lines.append(f"- {theirs or '(no rule)'} (for {ours})")
            continue
        value = fmt.to_ours(state[theirs], shapes[ours], ours, backbone)
        # The number of classes may differ: the caller decides whether the head is wanted at all.
        same = slice(-1 if naming.of_classes(ours) else None)
        if value.ndim != len(shapes[ours]) or value.shape[same] != shapes[ours][same]:
            lines += [f"- {theirs} {shapes[ours]}", f"+ {theirs} {value.shape}"]
        values[ours] = value
    extra = state.keys() - set(wanted.values())
    lines += [f"+ {key} {state[key].shape}" for key in sorted(extra) if not re.search(fmt.ignored, key)]
    if lines:
        raise WeightsMismatch(f"read as a checkpoint of {fmt.name}, {report(lines)}")
    return values


def to_theirs(values: Mapping[str, np.ndarray], backbone: Backbone, fmt: Format) -> Arrays:
    """The inverse of `to_ours`: our arrays as the foreign source would store them."""
    rules, constants = fmt.rules(backbone), fmt.constants(backbone)
    named = {ours: fmt.key(ours, rules) for ours in values}
    if nameless := [ours for ours, theirs in named.items() if theirs is None]:
        raise WeightsMismatch(f"{fmt.name} has no name for {nameless[0]}.")
    fixed = {ours: constants[_variable(ours)] for ours in values if _variable(ours) in constants}
    if lost := [ours for ours, constant in fixed.items() if (values[ours] != constant).any()]:
        raise WeightsMismatch(f"{fmt.name} has no place for {lost[0]}: there it is {fixed[lost[0]]} throughout.")
    kept = {ours: value for ours, value in values.items() if ours not in fixed}
    return {str(named[ours]): fmt.to_theirs(value, ours, backbone) for ours, value in kept.items()}


def _variable(key: str) -> str:
    return key.rpartition("/")[2]


def recognise(state: Mapping[str, Any], backbone: Backbone, shapes: Shapes, formats: list[Format]) -> Format:
    """The format under which most of our keys are found: told from the file's content, never from its name."""

    def found(fmt: Format) -> int:
        rules, keys = fmt.rules(backbone), fmt.canonical(state, backbone)
        return sum(fmt.key(ours, rules) in keys for ours in shapes)

    best = max(formats, key=found)
    if not found(best):
        some = ", ".join(sorted(state)[:3])
        known = ", ".join(fmt.name for fmt in formats)
        raise WeightsMismatch(
            f"the file's keys ({some}, ...) are of none of the known formats for {backbone.family}: {known}."
        )
    return best


TORCH_NAMES = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def from_torch(value: np.ndarray, shape: tuple[int, ...], key: str, backbone: Backbone) -> np.ndarray:
    """(out, in, height, width) to (height, width, in, out); linear transposed, also where it is a 1x1 convolution."""
    if len(shape) == 2 and value.ndim == 4:
        value = value[:, :, 0, 0]
    if value.ndim == 4:
        depthwise = shape[-1] == 1 and shape[-2] == value.shape[0]
        return value.transpose(2, 3, 0, 1) if depthwise else value.transpose(2, 3, 1, 0)
    return value.T if value.ndim == 2 else value


def to_torch(value: np.ndarray, key: str, backbone: Backbone) -> np.ndarray:
    """Inverse of `from_torch`."""
    if value.ndim == 4 and "depthwise" in key:
        return value.transpose(2, 3, 0, 1)
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    return value.T if value.ndim == 2 else value
