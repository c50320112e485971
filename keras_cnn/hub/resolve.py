"""What a name means: an architecture, a catalogue tag, a weights directory, or a single file."""

from __future__ import annotations

import os
from pathlib import Path

from keras_cnn import catalog, convert
from keras_cnn.errors import CorruptFile, KerasCnnError, UnknownModel
from keras_cnn.hub import directory
from keras_cnn.hub.directory import Source
from keras_cnn.spec import Spec


def embedded() -> Path:
    """The folder of the weights that come with this package."""
    installed = Path(__file__).parent.parent / "_weights"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "weights"


def tags() -> dict[str, Path]:
    """The catalogue of embedded weights: `architecture.tag` to its directory."""
    return {path.name: path for path in sorted(embedded().iterdir()) if (path / directory.CONFIG).is_file()}


def resolve(source: str | os.PathLike[str] | Spec, weights: str | os.PathLike[str] | None = None) -> Source:
    """Find a network by name, tag, directory or Spec, and its weights.

    Raises UnknownModel with the nearest names; CorruptFile where a directory or file is not what it should be.
    """
    if isinstance(source, Spec):
        return _with_weights(Source(catalog.default_config(source.family.lower(), source)), weights)
    name = os.fspath(source)
    if name in catalog.architectures():
        return _with_weights(Source(catalog.default_config(name, catalog.get(name))), weights)
    if weights is not None:
        raise UnknownModel(catalog.unknown(name, list(catalog.architectures())))
    return weights_source(name)


def weights_source(name: str) -> Source:
    """A tag or a weights directory."""
    if name in tags():
        return directory.read(tags()[name])
    path = Path(name)
    if path.is_dir():
        return directory.read(path)
    if path.is_file():
        raise KerasCnnError(
            f"{name} is a file of arrays: name its architecture too, as in build('resnet50', weights={name!r})."
        )
    if name.startswith("hf://"):
        raise KerasCnnError(
            f"{name}: this version reads local directories only; download the repository and give its path."
        )
    known = [*catalog.architectures(), *tags()]
    if os.sep in name or name.startswith("."):
        raise UnknownModel(f"{name}: there is no such directory.")
    if name.partition(".")[0] in catalog.architectures():
        arch, _, tag = name.partition(".")
        there = catalog.match(f"{arch}.*", list(tags()))
        raise UnknownModel(f"{arch} has no weights tagged {tag!r} here; known: {', '.join(there) or 'none'}.")
    raise UnknownModel(catalog.unknown(name, known))


def _with_weights(source: Source, weights: str | os.PathLike[str] | None) -> Source:
    if weights is None:
        return source
    path = Path(weights)
    if path.is_dir():
        found = directory.read(path)
        if found.config.architecture != source.config.architecture:
            raise KerasCnnError(
                f"{path} holds weights of {found.config.architecture}, not of {source.config.architecture}: "
                f"build({str(path)!r}) takes the architecture from the directory."
            )
        return found
    if not path.exists():
        raise CorruptFile(f"{path}: there is no such file or directory.")
    return Source(source.config, lambda: convert.read(path, source.config))
