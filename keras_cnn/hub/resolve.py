"""What a name means: an architecture, a catalogue tag, an address, a weights directory, or a single file."""

from __future__ import annotations

import os
import re
import warnings
from functools import cache
from pathlib import Path

from keras_cnn.checkpoints import arrays, convert, directory, keras_file
from keras_cnn.checkpoints.directory import Folder, Source
from keras_cnn.errors import CorruptFile, KerasCnnError, LicenceWarning, UnknownModel
from keras_cnn.hub.remote_file import RemoteFile
from keras_cnn.hub.snapshot import local_repository, repository
from keras_cnn.hub.tags import embedded, known
from keras_cnn.models import registry
from keras_cnn.models.backbone import Backbone
from keras_cnn.models.config import Config
from keras_cnn.models.heads import Head

EXPORTED = (".onnx", ".xml", ".tflite")  # what `export` writes
NAME = r"[A-Za-z0-9](?:[\w.-]*[A-Za-z0-9])?"
# A revision is a path below refs/ in the cache, which it must not leave.
ADDRESS = re.compile(rf"hf://(?P<repo>{NAME}/{NAME})(?:@(?P<revision>[\w.+-]+(?:/[\w.+-]+)*))?", re.ASCII)


def tags() -> list[str]:
    """Every tag: weights that come with the package, then the public ones."""
    return [*embedded_tags(), *known()]


def embedded_tags() -> dict[str, Path]:
    """Directories of the weights that come with the package, by tag."""
    return {path.name: path for path in sorted(embedded().iterdir()) if (path / directory.CONFIG).is_file()}


def resolve(
    source: str | os.PathLike[str] | Config | Backbone, weights: str | os.PathLike[str] | None = None
) -> Source:
    """Find a network by name, tag, address, directory, Config or backbone, and its weights.

    Raises UnknownModel with the nearest names; CorruptFile where a directory or file is not what it should be;
    HubError where a hub refuses or cannot be reached.
    """
    if isinstance(source, Config | Backbone):
        return _with_weights(registry.config_of(source), weights, given=True)
    name = os.fspath(source)
    if registry.is_known(name):
        return _with_weights(registry.get(name), weights)
    if weights is not None:
        raise UnknownModel(registry.unknown(name, list(registry.architectures())))
    return weights_source(name)


def asked_head(source: str | os.PathLike[str] | Config | Backbone) -> Head | None:
    """The head that a source asks for whatever weights it is given: a Config's, or that of a name's suffix."""
    if not isinstance(source, Config | Backbone):
        name = os.fspath(source)
        source = registry.get(name) if registry.is_known(name) else source
    return source.head if isinstance(source, Config) and source.head.suffix else None


def weights_source(name: str) -> Source:
    """A tag, an address, a weights directory or a .keras file."""
    if name in known():  # its configuration is known here; nothing is fetched before the arrays are asked for
        return Source(known()[name].config, lambda: _load(source_at(place(name), name)))
    return source_at(place(name), name)


def source_at(found: Folder | RemoteFile | Path, name: str) -> Source:
    """The Source at a place; of public weights, the catalogue has the last word on numerics and preprocessing."""
    line = next(
        (line for tag, line in known().items() if name == tag or found == RemoteFile(line.source, line.hash)), None
    )
    if isinstance(found, Folder):
        return warned(directory.read(found, line.config if line else None), name)
    if isinstance(found, RemoteFile) and line:
        config = line.config
        return warned(Source(config, lambda: directory.finite(*convert.read(found.file(), config))), name)
    if isinstance(found, Path) and keras_file.is_one(found):
        return warned(keras_file.read(found), name)
    if Path(name).suffix.lower() in EXPORTED:
        raise KerasCnnError(
            f"{name} is an exported network: predict, evaluate, benchmark and serve take it as it is; for all else "
            "give the network that it is of."
        )
    raise KerasCnnError(
        f"{name} is a file of arrays: name its architecture too, as in build('resnet50', weights={name!r})."
    )


def place(name: str) -> Folder | RemoteFile | Path:
    """Where a name leads: a weights directory, here or on a hub; a file on the web; a file here."""
    if name in embedded_tags():
        return Folder(embedded_tags()[name])
    if name in known():
        line = known()[name]
        return place(line.source) if line.source.startswith("hf://") else RemoteFile(line.source, line.hash)
    if name.startswith("hf://"):
        return repository(*parse(name))
    if "://" in name:
        hashes = [line.hash for line in known().values() if line.source == name]
        if not hashes:
            raise UnknownModel(
                f"{name}: only addresses whose hash the catalogue has are fetched; download it yourself."
            )
        return RemoteFile(name, hashes[0])
    path = Path(name)
    if path.is_file():
        return path
    stem, _, revision = name.rpartition("@") if "@" in path.name and not path.exists() else (name, "", "main")
    if Path(stem).name.startswith("models--") and (Path(stem) / "snapshots").is_dir():
        return local_repository(Path(stem), revision)
    if path.is_dir():
        return Folder(path)
    if os.sep in name or name.startswith("."):
        raise UnknownModel(f"{name}: there is no such directory.")
    if registry.is_known(name.partition(".")[0]):
        arch, _, tag = name.partition(".")
        there = registry.match(f"{arch}.*", tags())
        known_ones = f"known: {', '.join(there) or 'none'}"
        if suffix := registry.get(arch).head.suffix:
            known_ones = f"build({arch!r}, weights=...) takes those of {arch.removesuffix(suffix)}"
        raise UnknownModel(f"{arch} has no weights tagged {tag!r} here; {known_ones}.")
    raise UnknownModel(registry.unknown(name, [*registry.architectures(), *tags()]))


def parse(address: str) -> tuple[str, str | None]:
    """Repository and revision of `hf://owner/name[@revision]`."""
    found = ADDRESS.fullmatch(address)
    if not found or ".." in address or "--" in found["repo"]:
        raise UnknownModel(
            f"{address!r} is no address of a repository: write hf://owner/name or hf://owner/name@revision."
        )
    return found["repo"], found["revision"]


def warned(source: Source, name: str) -> Source:
    """The same; says once when its licence rules out commercial use."""
    licence = source.config.provenance.get("license") or ""
    if "-nc" in licence:
        _warn_of_licence(name, licence)
    return source


@cache
def _warn_of_licence(name: str, licence: str) -> None:
    warnings.warn(f"{name}: its licence, {licence}, rules out commercial use.", LicenceWarning, stacklevel=3)


def _load(source: Source) -> tuple[Config, arrays.Arrays]:
    assert source.load
    return source.load()


def _with_weights(config: Config, weights: str | os.PathLike[str] | None, given: bool = False) -> Source:
    """An architecture, or a configuration (given), with weights; WeightsMismatch where they are another one's."""
    if weights is None:
        return Source(config)
    name = os.fspath(weights)
    if not Path(name).exists() and "://" not in name and name not in tags() and "@" not in name:
        raise CorruptFile(f"{name}: there is no such file or directory.")
    if Path(name).is_file() and not keras_file.is_one(Path(name)):
        return Source(config, lambda: directory.finite(*convert.read(name, config)))
    source = weights_source(name)
    if given:
        return _as_given(source, config)
    directory.same_network(source.config, config, name)
    return source


def _as_given(source: Source, wanted: Config) -> Source:
    """Weights for a backbone: it says what the network is, they bring their numerics; shapes tell whether they fit."""
    ours = lambda config: config.with_(backbone=wanted.backbone.with_numerics_of(config.backbone))  # noqa: E731

    def load() -> tuple[Config, arrays.Arrays]:
        config, values = _load(source)
        return ours(config), values

    return Source(ours(source.config), load)
