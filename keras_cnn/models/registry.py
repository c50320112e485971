"""Which networks there are: names to configurations, wildcards, and help with misspelt names."""

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
from keras_cnn.models.backbone import Backbone, Variant
from keras_cnn.models.config import AS_IT_IS, Config, Input, Preprocess, check_input_shape
from keras_cnn.models.decoders import UNet
from keras_cnn.models.families import efficientnet, inception, inception_resnet, resnet, tcn
from keras_cnn.models.heads import Head
from keras_cnn.models.sequence_heads import SequenceHead

FAMILIES = (resnet, inception, inception_resnet, efficientnet, tcn)
# The classes that configurations name; whoever adds a family or a head elsewhere adds it here.
BACKBONES: dict[str, type[Backbone]] = {
    cls.__name__: cls
    for cls in (
        resnet.ResNet,
        inception.Inception,
        inception_resnet.InceptionResNet,
        efficientnet.EfficientNet,
        tcn.TCN,
    )
}
HEADS: dict[str, type[Head]] = {cls.__name__: cls for cls in (Head, UNet, SequenceHead)}
PLAIN = {cls.SIDES: cls for cls in (Head, SequenceHead)}  # what a backbone has where nobody says which head
FEWEST = 2  # classes of a U-Net that is named without any: its paper's, object and background


@cache
def architectures() -> Mapping[str, Config]:
    """Every architecture by name, as it was published, without weights."""
    return {name: default_config(name, found) for family in FAMILIES for name, found in family.VARIANTS.items()}


def get(name: str) -> Config:
    """The configuration of an architecture; UnknownModel names the nearest ones.

    A head's suffix puts that head on it: "resnet50_unet" is resnet50 with a U-Net in place of its classifier.
    """
    plain, head = _parted(name)
    if plain not in architectures():
        raise UnknownModel(unknown(plain, list(architectures())))
    config = architectures()[plain]
    return config.with_(head=head(classes=FEWEST)) if head else config


def is_known(name: str) -> bool:
    """Whether a name is of an architecture, with or without a head's suffix."""
    return _parted(name)[0] in architectures()


def suffixed() -> list[str]:
    """The names of all architectures with each head that has a suffix."""
    return [name + cls.suffix for cls in HEADS.values() if cls.suffix for name in architectures()]


def _parted(name: str) -> tuple[str, type[Head] | None]:
    """A name without the suffix of a head, and that head."""
    found = next((cls for cls in HEADS.values() if cls.suffix and name.endswith(cls.suffix)), None)
    return (name.removesuffix(found.suffix), found) if found else (name, None)


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


def default_config(name: str, network: Backbone | Variant) -> Config:
    """What a network without weights remembers: ImageNet statistics at the size that it was published with; of one for
    sequences, that they have one channel."""
    found = network if isinstance(network, Variant) else Variant(network)
    sides = found.backbone.SIDES
    return Config(
        architecture=name,
        input=Input(any_size=(False,) * sides),
        backbone=found.backbone,
        head=PLAIN[sides](classes=found.classes, dropout=found.dropout),
        preprocess=Preprocess(size=(found.size,) * sides, **(AS_IT_IS if sides == 1 else {})),
    )


def config_of(source: Config | Backbone) -> Config:
    """The configuration itself, or that of a backbone with a classifier for ImageNet."""
    return source if isinstance(source, Config) else default_config(source.family.lower(), source)


def numbers() -> set[str]:
    """The fields of all families, which `build` takes as keywords."""
    return {f.name for cls in BACKBONES.values() for f in dataclasses.fields(cls)}


def backbone_from_dict(values: Any) -> Backbone:
    """Inverse of `Backbone.to_dict`."""
    return _one_of("backbone", "family", BACKBONES, values)


def head_from_dict(values: Any) -> Head:
    """Inverse of `Head.to_dict`; format 1 knew one kind, which it did not name."""
    values = _object("head", values)
    return _one_of("head", "kind", HEADS, {"kind": "Head", **values})


def config_from_dict(values: Mapping[str, Any]) -> Config:
    """Inverse of `Config.to_dict`; CorruptFile names what is missing or unknown, BadSpec what cannot be."""
    values = _from_format_1(values) if "spec" in values else values
    try:
        return Config(
            architecture=values["architecture"],
            input=_from_dict(Input, "input", values["input"]),
            backbone=backbone_from_dict(values["backbone"]),
            head=head_from_dict(values["head"]),
            preprocess=_from_dict(Preprocess, "preprocess", values["preprocess"]),
            class_names=values["class_names"],
            provenance=values["provenance"],
        )
    except KeyError as missing:
        raise CorruptFile(f"the configuration lacks {missing}.") from None


def _from_format_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Format 1 kept input, classes and dropout in its `spec`; the last two stood in the head as well."""
    values = dict(values)
    spec = dict(_object("spec", values.pop("spec")))
    shape = spec.pop("input_shape", (None, None, 3))
    check_input_shape(shape)
    for other in ("classes", "drop_rate"):
        spec.pop(other, None)
    preprocess = dict(_object("preprocess", values.get("preprocess")))
    sides = preprocess.get("size") or (224, 224)
    if isinstance(sides, list | tuple) and len(sides) == 2:
        preprocess["size"] = [side or other for side, other in zip(shape[:2], sides, strict=True)]
    inputs = {"any_size": [side is None for side in shape[:2]]}
    return {**values, "input": inputs, "backbone": spec, "preprocess": preprocess}


def _one_of(part: str, tag: str, classes: Mapping[str, type], values: Any) -> Any:
    """An object of JSON that names its class under `tag`."""
    values = {**_object(part, values)}
    name = values.pop(tag, None)
    if not isinstance(name, str) or name not in classes:
        raise CorruptFile(
            f"the configuration names a {tag} {reprlib.repr(name)} that this version does not know: upgrade keras-cnn."
        )
    return _from_dict(classes[name], part, values)


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
