"""A weights directory: `model.safetensors`, `config.json`, `README.md`. A run's output is one too.

The configuration stands in `model.safetensors` as well: its renaming is the moment in which a directory changes, and
whoever is killed, or reads, between that and the renaming of `config.json` has a whole network all the same.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from keras_cnn import files
from keras_cnn.checkpoints import arrays, card, commands, convert
from keras_cnn.checkpoints.hashes import Print, fits, record, safe_name
from keras_cnn.errors import BadSpec, CorruptFile, KerasCnnError, WeightsMismatch, WeightsWarning
from keras_cnn.models import registry, shapes
from keras_cnn.models.config import Config, record_of
from keras_cnn.models.fields import held_to, known_options

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FOREIGN = (WEIGHTS, "pytorch_model.bin")  # what others call their weights, in the order of trust
OURS = "keras_cnn"  # our part of config.json, and of the metadata of model.safetensors
LARGEST_CONFIG = 2**24  # bytes; 21,843 classes with descriptions take 3 MB, and JSON 25 times its size in memory
FORMAT = 2  # of our part of config.json, `keras_cnn`; other libraries' keys are never used
READ = (1, FORMAT)  # the formats that are read, for ever; `registry.config_from_dict` knows the older one


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's configuration and, where there are weights, how to read them."""

    config: Config
    load: Callable[[], tuple[Config, arrays.Arrays]] | None = None


@dataclasses.dataclass(frozen=True)
class Folder:
    """A weights directory on this machine; `snapshot.Snapshot` is one that a hub vouches for."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def names(self) -> list[str]:
        return sorted(file.name for file in self.path.iterdir() if file.is_file())

    def file(self, name: str, *prints: Print) -> Path:
        """The path of a file, once its content is known to have these fingerprints; CorruptFile otherwise."""
        path = self.path / name
        if not path.is_file():
            raise CorruptFile(f"{path} is missing: fetch the directory again.")
        if not fits(path, prints):
            raise differs(path, f"{self.path / CONFIG} names")
        return path

    def origin(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Provenance that tells where the arrays come from."""
        return {"source": self.path.resolve().name, **facts}


def differs(path: Path, says: str) -> CorruptFile:
    return CorruptFile(f"{path} is not the file that {says} (its sha256 differs): fetch it again.")


def read(place: str | os.PathLike[str] | Folder, known: Config | None = None) -> Source:
    """The Source in a weights directory of ours or of timm's, told apart by what config.json says.

    known: what the catalogue knows of it; it has the last word on numerics and preprocessing. Where others save into
    the directory meanwhile, `load` gives what one of them saved.
    """
    folder = place if isinstance(place, Folder) else Folder(Path(place))
    state = _state(folder)
    source = _read(folder, known)
    return Source(source.config, lambda: _load(folder, known, source, state)) if source.load else source


ATTEMPTS = 5  # at reading a directory that changes meanwhile


def _load(
    folder: Folder, known: Config | None, source: Source, state: Any, attempts: int = ATTEMPTS
) -> tuple[Config, arrays.Arrays]:
    assert source.load
    try:
        found = source.load()
    except (KerasCnnError, FileNotFoundError):
        if _state(folder) == state or not attempts:
            raise
    else:
        if _state(folder) == state or not attempts:
            return found
    state = _state(folder)
    return _load(folder, known, _read(folder, known), state, attempts - 1)


def _state(folder: Folder) -> Any:
    """What changes whenever somebody saves into a directory; of a commit, which never does, nothing is asked."""
    if type(folder) is not Folder:
        return None
    try:
        facts = (folder.path / WEIGHTS).stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_mtime_ns, facts.st_size


def _read(folder: Folder, known: Config | None) -> Source:
    if ours := _newer(folder):
        config = _named(folder.path / WEIGHTS, registry.config_from_dict, ours)
        config = config.with_(provenance=folder.origin(config.provenance))
        return Source(config, lambda: (config, _vouched(folder, config, ours)))
    if CONFIG not in folder.names:
        raise CorruptFile(f"{folder} has no {CONFIG}: it is not a weights directory.")
    file = folder.file(CONFIG)
    values = _read_json(file)
    if "keras_cnn" in values:
        ours = values["keras_cnn"]
        if not isinstance(ours, dict):
            raise CorruptFile(f"{file}: the value of 'keras_cnn' is not an object: fetch it again.")
        if ours.get("format") not in READ:
            raise CorruptFile(
                f"{file} has format {ours.get('format')!r}, this version reads {READ[0]} to {READ[-1]}: "
                "upgrade keras-cnn."
            )
        config = _named(file, registry.config_from_dict, ours)
        config = config.with_(provenance=folder.origin(config.provenance))
        return Source(config, lambda: (config, _checked(folder, config, ours.get("files"))))
    if "architecture" in values:
        config = _named(file, convert.timm.config, values)
        config = same_network(config, known, str(folder)) if known else config
        config = config.with_(provenance=folder.origin(config.provenance))
        return Source(config, lambda: finite(*convert.read(folder.file(weights_name(folder)), config)))
    raise CorruptFile(f"{file} is neither ours (no key 'keras_cnn') nor timm's (no key 'architecture').")


def same_network(found: Config, known: Config, where: str) -> Config:
    """What is known of weights, with the class names found with them; WeightsMismatch where that is another network."""
    if found.architecture != known.architecture:
        raise WeightsMismatch(
            f"{where} holds weights of {found.architecture}, not of {known.architecture}: build({where!r}) takes the "
            "architecture from there."
        )
    names = found.class_names if len(found.class_names) == known.head.classes else ()
    return known.with_(class_names=names, provenance={**found.provenance, **known.provenance})


def weights_name(folder: Folder) -> str:
    """The file with the arrays: safetensors where there is one, since nothing else is as safe to read."""
    names = folder.names
    for name in FOREIGN:
        if name in names:
            return name
    others = [name for name in names if name.endswith((".safetensors", ".h5"))]
    if len(others) == 1:
        return others[0]
    found = f"several files of weights ({', '.join(others)})" if others else f"no {' or '.join(FOREIGN)}"
    raise CorruptFile(f"{folder} has {found}: it is not a weights directory.")


def finite(config: Config, values: arrays.Arrays) -> tuple[Config, arrays.Arrays]:
    """The same; warns of NaN and infinite values, which spread through every prediction."""
    if bad := arrays.not_finite(values):
        where = config.provenance.get("source", config.architecture)
        text = f"{where}: {len(bad)} arrays hold NaN or infinite values, such as {bad[0]}: do not use these weights."
        warnings.warn(text, WeightsWarning, stacklevel=2)
    return config, values


@known_options
def save_pretrained(
    model: Any, path: str | os.PathLike[str], *, half: bool = False, provenance: Mapping[str, Any] | None = None
) -> Path:
    """Write a model of ours as a weights directory, head included, which `build(path)` reads back.

    half: kernels in float16, half the size. provenance: facts for config.json and the model card, such as
    `{"metrics": {"accuracy": 0.91}, "data": ..., "command": ..., "license": ...}`; they add to what the model knows.
    All files are written aside first, then renamed. Raises BadSpec for a model that is not of ours, or no longer what
    its configuration says, such as a quantised one, since `build` could not read it back, and for kernels that `half`
    would make infinite; RunInUse where a run of another process or thread goes on writing there.
    """
    path = Path(path)
    config = config_of(model)
    check_readable(model, config)
    facts = commands.public({**config.provenance, **held_to("provenance", provenance or {}, Mapping)})
    config = config.with_(provenance=facts or {"source": "random weights"})
    values = arrays.stored(arrays.arrays(model), half)
    ours = {"format": FORMAT, **config.to_dict()}
    digest = _digest(ours, values)
    with files.holding(path, files.PATIENCE):
        files.clear_beside(path / WEIGHTS)  # of one that was killed as it wrote
        with files.beside(path / WEIGHTS) as new:
            arrays.write_arrays(values, new / WEIGHTS, {OURS: json.dumps({**ours, "digest": digest})})
            files.write_text(new / CONFIG, config_text(config, {WEIGHTS: {**record(new / WEIGHTS), "digest": digest}}))
            figures = [name for name in card.pictures() if (path / name).is_file()]
            files.write_text(new / CARD, card.card(config, path.name, figures=figures))
            for name in (WEIGHTS, CONFIG, CARD):  # the first is the moment in which the directory changes
                os.replace(new / name, path / name)
    return path


def check_readable(model: Any, config: Config) -> None:
    """BadSpec for a model whose arrays are not those of its configuration, before anything is written."""
    mend = "save it before `quantize` or `enable_lora`, or keep this form with model.save('NAME.keras')."
    if odd := [k for k, v in arrays.variables(model).items() if "float" not in str(v.dtype)]:
        raise BadSpec(f"{model.name} is quantised ({odd[0]} holds {arrays.variables(model)[odd[0]].dtype}): {mend}")
    wanted = shapes.variables(shapes.tally(config))
    found = {key: tuple(v.shape) for key, v in arrays.variables(model).items()}
    if differ := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
        raise BadSpec(
            f"{model.name} is no longer the network that its configuration describes: {len(differ)} arrays differ, "
            f"such as {differ[0]}. If layers were changed or added by hand, keep it with model.save('NAME.keras'); "
            f"otherwise {mend}"
        )


@known_options
def config_of(model: Any) -> Config:
    """The configuration that a model of ours carries, also after `keras.saving.load_model`."""
    config = registry.config_from_dict(record_of(model))
    return config.at(tuple(model.input_shape[1:]))


def config_text(config: Config, files: Mapping[str, Mapping[str, Any]]) -> str:
    """config.json; `files`: size and sha256 of the files beside it."""
    return json.dumps({OURS: {"format": FORMAT, **config.to_dict(), "files": files}}, indent=1) + "\n"


def _digest(ours: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """A hash of a configuration and its arrays, which names one save."""
    text = json.dumps({key: ours[key] for key in sorted(ours) if key != "digest"}, sort_keys=True)
    return hashlib.sha256((text + arrays.digest(dict(sorted(values.items())))).encode()).hexdigest()


def _newer(folder: Folder) -> dict[str, Any] | None:
    """The configuration in the weights where that in config.json is of another save, or not there (yet)."""
    if type(folder) is not Folder or WEIGHTS not in folder.names:
        return None
    named = None
    if CONFIG in folder.names:
        ours = _read_json(folder.path / CONFIG).get(OURS)
        listed = ours.get("files") if isinstance(ours, dict) else None
        about = listed.get(WEIGHTS) if isinstance(listed, dict) else None
        named = about.get("digest") if isinstance(about, dict) else None
        if named is None:  # another library's, or of an earlier release
            return None
    own = _own(folder.path / WEIGHTS)
    return own if own and own.get("digest") != named else None


def _own(path: Path) -> dict[str, Any] | None:
    """The configuration that a file of weights holds, unless it is damaged or has none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            text = (file.metadata() or {})[OURS]
            ours = json.loads(text) if len(text) <= LARGEST_CONFIG else None
    except (SafetensorError, ValueError, KeyError, RecursionError, OSError):
        return None
    return ours if isinstance(ours, dict) and ours.get("format") in READ else None


def _vouched(folder: Folder, config: Config, ours: Mapping[str, Any]) -> arrays.Arrays:
    """Our arrays, from a file that vouches for itself."""
    path = folder.file(WEIGHTS)
    values = arrays.load(path)
    if _digest(ours, values) != ours.get("digest"):
        raise CorruptFile(f"{path} is damaged (its checksum differs), and {CONFIG} is of another save: fetch it again.")
    return _fitting(path, config, values)


def _named(file: Path, parse: Callable[[dict[str, Any]], Config], values: dict[str, Any]) -> Config:
    """Parse a configuration; errors name its file."""
    try:
        return parse(values)
    except KerasCnnError as error:
        raise type(error)(f"{file}: {error}") from None


def _checked(folder: Folder, config: Config, files: Any) -> arrays.Arrays:
    """Our arrays: the file that config.json names, with the keys and shapes of its network."""
    if not isinstance(files, dict) or not isinstance(files.get(WEIGHTS), dict):
        raise CorruptFile(f"{folder.path / CONFIG} does not name {WEIGHTS} under 'files': fetch it again.")
    for name in files:
        safe_name(name, str(folder.path / CONFIG))
    expected = files[WEIGHTS]
    path = folder.file(WEIGHTS, Print(f"sha256:{expected.get('sha256')}", expected.get("size")))
    return _fitting(path, config, arrays.load(path))


def _fitting(path: Path, config: Config, values: arrays.Arrays) -> arrays.Arrays:
    try:  # before a graph of the size that the configuration claims is allocated
        arrays.check(shapes.variables(shapes.tally(config)), values)
        arrays.check_floats(values)
    except WeightsMismatch as mismatch:
        raise WeightsMismatch(f"{path}: {mismatch}") from None
    return finite(config, values)[1]


def _read_json(path: Path) -> dict[str, Any]:
    if (size := path.stat().st_size) > LARGEST_CONFIG:
        raise CorruptFile(f"{path} has {size} bytes, and no configuration has more than {LARGEST_CONFIG}: not read.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no text, no JSON, a number or a nesting that is too long
        raise CorruptFile(f"{path} is not valid JSON ({error}): fetch it again.") from None
    if not isinstance(values, dict):
        raise CorruptFile(f"{path} is not a JSON object: fetch it again.")
    return values
