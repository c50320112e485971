"""All that a network must remember beside its arrays: input, backbone, head, preprocessing, names, provenance."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import reprlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keras_cnn.errors import BadSpec
from keras_cnn.models.backbone import LONGEST_SEQUENCE, MOST_CHANNELS, Backbone
from keras_cnn.models.fields import conform, held_to, known_options, one_of, within, written
from keras_cnn.models.heads import Head

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
LONGEST_SIDE = 2**14  # pixels
AS_IT_IS: dict[str, Any] = {"mean": (0.0,), "std": (1.0,)}  # the statistics of a sequence are weights instead
# By the sides of what a network reads: what it is, how its shape is written, a head for it, and the longest side.
KINDS = {1: "sequences", 2: "images"}
SIDES = {1: "(time,)", 2: "(height, width)"}
SHAPES = {
    1: "(time, channels); time may be None",
    2: "(height, width, channels); height and width may be None",
}
HEADS = {1: "kc.SequenceHead", 2: "kc.Head"}
LONGEST = {1: LONGEST_SEQUENCE, 2: LONGEST_SIDE}
LONGEST_NAME = 1_000  # characters of a class's name
WIDEST_WINDOW = 2**32  # values of pixels


def check_sides(name: str, values: tuple[Any, ...]) -> None:
    if len(values) not in KINDS:
        raise BadSpec(f"{name}={reprlib.repr(values)}: give {SIDES[2]} of images, {SIDES[1]} of sequences.")


@dataclass(frozen=True, kw_only=True)
class Input:
    """Which images, or sequences, a network takes.

    any_size: for height and width, or for time alone, whether they may be any; else they are those of
    `Preprocess.size`, which has the channels too, since reading an image is what makes them.
    """

    any_size: tuple[bool, ...] = (False, False)

    def __post_init__(self) -> None:
        conform(self)
        check_sides("any_size", self.any_size)


@known_options
@dataclass(frozen=True, kw_only=True)
class Preprocess:
    """What weights expect of an image, from the file to the first convolution; of a sequence its length and channels.

    mean, std: in units of 0..1, one a channel; the network applies them itself to raw 0..255 values.
        Sequences have 0 and 1: their statistics are weights, which a network learns from its own data.
    size: (height, width) at which the network sees images, (time,) of sequences; `crop`: share of the resized short
        side that the centre crop keeps.
    interpolation: of the resize: bicubic, bilinear, nearest or lanczos.
    mode: "center" resizes the short side to floor(size / crop) and crops; "squash" ignores the aspect ratio.
    window: the values of images of more than 8 bits that become 0 and 255, such as (0, 4095) for X-rays of 12 bits;
        None where the network has seen none. `load_data` finds it, `fine_tune` keeps it with the weights.
    """

    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    size: tuple[int, ...] = (224, 224)
    crop: float = 0.875
    interpolation: str = "bicubic"
    mode: str = "center"
    window: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        conform(self)
        check_window(self.window)
        if not self.mean or len(self.mean) != len(self.std):
            raise BadSpec(f"mean has {len(self.mean)} and std {len(self.std)} numbers: give both one for each channel.")
        if min(self.std) <= 0:
            raise BadSpec(f"std={reprlib.repr(self.std)}: give numbers above 0, since pixels are divided by them.")
        within("std", self.std, 1e-7, 1000)  # with these, float32 holds every pixel
        within("mean", self.mean, -1000, 1000)
        check_sides("size", self.size)
        within("size", self.size, 1, LONGEST[len(self.size)])
        one_of("interpolation", self.interpolation, ("bicubic", "bilinear", "nearest", "lanczos"))
        one_of("mode", self.mode, ("center", "squash"))
        if not 0.01 <= self.crop <= 1:
            raise BadSpec(f"crop={self.crop!r}: give the share of the image that is kept, from 0.01 to 1.")

    @classmethod
    def of(cls, model: Any) -> Preprocess:
        """What the weights of a network of ours expect; a Preprocess is given back."""
        return model if isinstance(model, Preprocess) else cls(**record_of(model)["preprocess"])

    def for_channels(self, channels: int) -> Preprocess:
        """The same for another number of channels: each takes the mean of the given statistics."""
        if channels == len(self.mean):
            return self
        average = lambda values: (sum(values) / len(values),) * channels  # noqa: E731
        return dataclasses.replace(self, mean=average(self.mean), std=average(self.std))

    def whole(self) -> Preprocess:
        """The same for images that are seen whole: resized to the size, whatever their shape, and not cropped."""
        return dataclasses.replace(self, crop=1.0, mode="squash")

    def at_size(self, size: tuple[int | None, ...]) -> Preprocess:
        """The same at another size; an unknown height or width (None) stays what it is."""
        sides = tuple(new or old for new, old in zip(size, self.size, strict=True))
        return self if sides == self.size else dataclasses.replace(self, size=sides)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All that a network must remember beside its arrays: `config.json`, and the record inside the model.

    architecture: its name, such as "resnet50". input, backbone, head, preprocess: its four parts; each fact is in one
    of them. provenance: where the arrays come from, how they were trained, what they scored: free-form JSON, shown by
    `info` and on the model card.
    """

    architecture: str
    input: Input = Input()
    backbone: Backbone
    head: Head
    preprocess: Preprocess
    class_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        conform(self)
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", self.architecture, re.ASCII):  # it names the Keras model, too
            raise BadSpec(f"architecture={reprlib.repr(self.architecture)}: give letters, digits, '_', '-' and '.'.")
        if self.class_names and len(self.class_names) != self.head.names:
            raise BadSpec(f"{len(self.class_names)} class names for {self.head.names} classes: give each its name.")
        self._check_sides()
        check_class_names(self.class_names)
        written("provenance", self.provenance)
        for name, kind in FACTS.items():
            if name in self.provenance:
                held_to(f"provenance: {name}", self.provenance[name], kind)
        if not all(isinstance(key, str) and key.strip() for key in self.provenance.get("metrics", {})):
            raise BadSpec("provenance: a metric has no name: give each one.")
        if not all(isinstance(text, str) for text in self.provenance.get("class_descriptions", {}).values()):
            raise BadSpec("provenance: class_descriptions: give each class a text.")

    @property
    def name(self) -> str:
        """What the network is called: "resnet50", with a U-Net on it "resnet50_unet"."""
        return self.architecture + self.head.suffix

    @property
    def channels(self) -> int:
        return len(self.preprocess.mean)

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """(height, width, channels) of an image as the network takes it, or (time, channels) of a sequence; None for a
        side that may be any."""
        sides = zip(self.preprocess.size, self.input.any_size, strict=True)
        return (*(None if free else side for side, free in sides), self.channels)

    def _check_sides(self) -> None:
        """BadSpec unless all four parts are of images, or all of sequences."""
        sides, what = self.backbone.SIDES, KINDS[self.backbone.SIDES]
        if sides != self.head.SIDES:
            raise BadSpec(
                f"{self.backbone.family} reads {what}, and a {type(self.head).__name__} answers for "
                f"{KINDS[self.head.SIDES]}: give a head for {what}, such as {HEADS[sides]}."
            )
        for name, given in (("size", self.preprocess.size), ("any_size", self.input.any_size)):
            if len(given) != sides:
                raise BadSpec(f"{name}={given!r}: {self.backbone.family} reads {what}: give {SIDES[sides]}.")

    def with_(self, **changes: Any) -> Config:
        return dataclasses.replace(self, **changes)

    def at(self, input_shape: tuple[int | None, ...]) -> Config:
        """The same network for images or sequences of another shape; None for a side that may be any."""
        *sides, channels = check_input_shape(input_shape, self.backbone.SIDES)
        preprocess = self.preprocess.for_channels(channels).at_size(tuple(sides))
        return self.with_(input=Input(any_size=tuple(side is None for side in sides)), preprocess=preprocess)

    def for_classes(self, classes: int) -> Config:
        """The same network with a head for so many classes."""
        names = self.class_names if len(self.class_names) == classes else ()
        return self.with_(head=self.head.for_classes(classes), class_names=names)

    def as_base(self, tag: str | None = None) -> Config:
        """The same for a network with a new head: what was measured, and on what, held for the old classes.

        The licence holds on, and the limits do as those of the base. tag: the name of the weights, where they have one.
        """
        if not self.provenance:
            return self
        facts = self.provenance.get
        known = {
            "base": tag or facts("source", self.architecture),
            "base_source": facts("source"),
            "base_license": facts("license"),
            "base_limits": "\n".join(filter(None, (facts("limits"), facts("base_limits")))),
            "license": facts("license"),
        }
        return self.with_(provenance={key: value for key, value in known.items() if value})

    def to_dict(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "input": dataclasses.asdict(self.input),
            "backbone": self.backbone.to_dict(),
            "head": self.head.to_dict(),
            "preprocess": dataclasses.asdict(self.preprocess),
            "class_names": list(self.class_names),
            "provenance": dict(self.provenance),
        }


# The kinds of those facts in a provenance that the package reads itself.
FACTS: dict[str, Any] = {
    **dict.fromkeys(
        ("source", "license", "data", "command", "limits", "base", "base_source", "base_license", "base_limits"),
        str | None,
    ),
    **dict.fromkeys(("metrics", "class_descriptions"), Mapping[str, Any]),
}


def record_of(model: Any) -> dict[str, Any]:
    """The record inside a network of ours, which a saved `.keras` file keeps; BadSpec for other models."""
    for layer in getattr(model, "layers", ()):
        if record := getattr(layer, "record", None):
            return record
    raise BadSpec(f"{getattr(model, 'name', model)!r} was not made by keras_cnn.build: it carries no record.")


def check_class_names(names: tuple[str, ...]) -> None:
    """BadSpec unless each class has a name of its own; whatever it is made of is shown as text."""
    written("class_names", names)
    if blank := [i for i, name in enumerate(names) if not name.strip()]:
        raise BadSpec(f"class_names: the name of class {blank[0]} is empty: give each a name.")
    if long := [name for name in names if len(name) > LONGEST_NAME]:
        raise BadSpec(
            f"class_names: {reprlib.repr(long[0])} has {len(long[0])} characters: give names of at most {LONGEST_NAME}."
        )
    if len(set(names)) < len(names):
        [(twice, _)] = Counter(names).most_common(1)
        raise BadSpec(f"class_names: {reprlib.repr(twice)} is the name of two classes: give each a name of its own.")


def keep_window(model: Any, window: tuple[float, float] | None) -> None:
    """Let a network remember how images of more than 8 bits were seen when it learnt; one of another make cannot."""
    with contextlib.suppress(BadSpec):
        record_of(model)["preprocess"]["window"] = window


def check_window(window: Any) -> None:
    """BadSpec for a window that is no pair of numbers, the lower one first."""
    low, high = held_to("window", window, tuple[float, float] | None) or (0, 1)
    if not -WIDEST_WINDOW <= low < high <= WIDEST_WINDOW:
        raise BadSpec(f"window={window!r}: give the values that become 0 and 255, the lower one first.")


def check_input_shape(shape: Any, sides: int = 2) -> tuple[Any, ...]:
    """The shape of an image, or of a sequence, which has one side; BadSpec for what is none."""
    good = isinstance(shape, tuple | list) and len(shape) == sides + 1 and shape[-1] is not None
    if not good or not all(n is None or (isinstance(n, int) and n > 0) for n in shape):
        raise BadSpec(f"input_shape={reprlib.repr(shape)}: give {SHAPES[sides]}.")
    within("sides of input_shape", tuple(n for n in shape[:-1] if n), 1, LONGEST[sides])
    within("channels of input_shape", shape[-1], 1, MOST_CHANNELS)
    return tuple(shape)
