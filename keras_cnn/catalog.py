"""Which networks there are: names to Specs, wildcards, and help with misspelt names."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
from collections.abc import Mapping
from functools import cache
from typing import Any

from keras_cnn.errors import CorruptFile, UnknownModel
from keras_cnn.families import efficientnet, inception, inception_resnet, resnet
from keras_cnn.spec import Config, Head, Preprocess, Spec

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
    near = difflib.get_close_matches(name, known, 3, 0.5)
    hint = f" Did you mean {' or '.join(near)}?" if near else " `keras-cnn list` shows all."
    return f"There is no network called {name!r}.{hint}"


def match(pattern: str, names: list[str]) -> list[str]:
    """Names that fit a shell wildcard, in natural order (resnet18 before resnet101)."""
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
    values = {**values}
    family = values.pop("family", None)
    classes = {cls.__name__: cls for cls in SPEC_CLASSES}
    if family not in classes:
        raise CorruptFile(
            f"the configuration names a family {family!r} that this version does not know: upgrade keras-cnn."
        )
    return _from_dict(classes[family], values)


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of `Config.to_dict`; CorruptFile names what is missing or unknown."""
    try:
        return Config(
            architecture=values["architecture"],
            spec=spec_from_dict(values["spec"]),
            head=_from_dict(Head, values["head"]),
            preprocess=_from_dict(Preprocess, values["preprocess"]),
            class_names=tuple(values["class_names"]),
            provenance=values["provenance"],
        )
    except KeyError as missing:
        raise CorruptFile(f"the configuration lacks {missing}.") from None
    except (TypeError, AttributeError) as error:  # a field is missing, or holds another kind of value
        raise CorruptFile(f"the configuration is not complete ({error}).") from None


def _from_dict(cls: type, values: Mapping[str, Any]) -> Any:
    values = {k: _tuples(v) for k, v in values.items()}
    if unknown := values.keys() - {f.name for f in dataclasses.fields(cls)}:
        raise CorruptFile(
            f"the configuration has {', '.join(sorted(unknown))}, which this version does not know: upgrade keras-cnn."
        )
    return cls(**values)


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that a frozen dataclass holds."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
