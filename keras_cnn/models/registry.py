"""Which networks there are: names to Specs, wildcards, and help with misspelt names."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import re
import reprlib
from collections.abc import Mapping
from functools import cache
from typing import Any

from keras_cnn.errors import CorruptFile, UnknownModel
from keras_cnn.models.config import Config, Head, Preprocess, Spec
from keras_cnn.models.families import efficientnet, inception, inception_resnet, resnet

FAMILIES = (resnet, inception, inception_resnet, efficientnet)
SPEC_CLASSES: tuple[type[Spec], ...] = (
    resnet.ResNet,
    inception.Inception,
    inception_resnet.InceptionResNet,
    efficientnet.EfficientNet,
)


@cache
def architectures() -> Mapping[str, Spec]:
    """Every architecture by name."""
    return {name: spec for family in FAMILIES for name, spec in family.VARIANTS.items()}


def get(name: str) -> Spec:
    """The Spec of an architecture; UnknownModel names the nearest ones."""
    if name not in architectures():
        raise UnknownModel(unknown(name, list(architectures())))
    return architectures()[name]


def unknown(name: str, known: list[str]) -> str:
    """A sentence for a name that is not known."""
    stem = _stem(name)
    stems = () if stem in ELSEWHERE else difflib.get_close_matches(stem, set(map(_stem, known)), 3, 0.8)
    near = difflib.get_close_matches(name.lower(), [other for other in known if _stem(other) in stems], 3, 0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else " `keras-cnn list` shows all."
    return f"There is no network called {name!r}.{hint}"


def _stem(name: str) -> str:
    """A name up to its first digit, which tells the family: "resnet50" and "resnet18.tiny" have "resnet"."""
    return re.split(r"\d", name.lower(), maxsplit=1)[0].strip("_.-")


# Families that others have and whose names look like ours: nobody who asks for one means another.
ELSEWHERE = {"xception", "resnest", "rexnet", "seresnet", "xresnet", "resnetrs", "tresnet", "senet"}
ELSEWHERE |= {"regnet", "regnetx", "regnety"}


def match(pattern: str, names: list[str]) -> list[str]:
    """Names that fit a shell wildcard, in natural order (resnet18 before resnet101); a pattern without one is a name
    or, where there is no such name, its beginning."""
    if not set(pattern) & set("*?[") and pattern not in names:
        pattern += "*"
    return sorted(fnmatch.filter(names, pattern), key=_natural)


def _natural(name: str) -> list[Any]:
    digits, key = "", []
    for c in name + "\0":
        if c.isdigit():
            digits += c
            continue
        key += [(0, int(digits), "")] if digits else []
        digits = ""
        key.append((1, 0, c))
    return key


def default_config(name: str, spec: Spec) -> Config:
    """What a network without weights remembers: ImageNet statistics at the Spec's own size."""
    pre = Preprocess().for_channels(spec.input_shape[-1]).at_size(spec.input_shape[:2])
    head = Head(classes=spec.classes, dropout=spec.drop_rate)
    return Config(architecture=name, spec=spec, head=head, preprocess=pre)


def spec_from_dict(values: Mapping[str, Any]) -> Spec:
    """Inverse of `Spec.to_dict`."""
    values = {**_object("spec", values)}
    family = values.pop("family", None)
    cls = next((cls for cls in SPEC_CLASSES if cls.__name__ == family), None)
    if cls is None:
        raise CorruptFile(
            f"the configuration names a family {reprlib.repr(family)} that this version does not know: "
            "upgrade keras-cnn."
        )
    return _from_dict(cls, "spec", values)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of `Config.to_dict`; CorruptFile names what is missing or unknown, BadSpec what cannot be."""
    try:
        return Config(
            architecture=values["architecture"],
            spec=spec_from_dict(values["spec"]),
            head=_from_dict(Head, "head", values["head"]),
            preprocess=_from_dict(Preprocess, "preprocess", values["preprocess"]),
            class_names=values["class_names"],
            provenance=values["provenance"],
        )
    except KeyError as missing:
        raise CorruptFile(f"the configuration lacks {missing}.") from None


def _from_dict(cls: type, part: str, values: Any) -> Any:
    """A dataclass from an object of JSON; what its fields may hold, it checks itself."""
    values, fields = _object(part, values), dataclasses.fields(cls)
    if unknown := values.keys() - {f.name for f in fields}:
        raise CorruptFile(
            f"the configuration has {', '.join(sorted(unknown))}, which this version does not know: upgrade keras-cnn."
        )
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    if missing := needed - values.keys():
        raise CorruptFile(f"the configuration is not complete: its {part} lacks {', '.join(sorted(missing))}.")
    return cls(**values)


def _object(part: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping):
        raise CorruptFile(f"the configuration is not complete: its {part} is {reprlib.repr(values)}, not an object.")
    return values
