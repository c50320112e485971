"""A weights directory: `model.safetensors`, `config.json`, `README.md`. A run's output is one too."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from keras_cnn import catalog, checkpoint, commands, convert, tally
from keras_cnn.errors import BadSpec, CorruptFile, KerasCnnError, WeightsMismatch, WeightsWarning
from keras_cnn.hub import card
from keras_cnn.hub.hashes import Print, fits, record, safe_name
from keras_cnn.spec import Config, record_of

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
FOREIGN = (WEIGHTS, "pytorch_model.bin")  # what others call their weights, in the order of trust
LARGEST_CONFIG = 2**24  # bytes; 21,843 classes with descriptions take 3 MB, and JSON 25 times its size in memory
FORMAT = 1  # of our part of config.json, `keras_cnn`; other libraries' keys are never used


@dataclasses.dataclass(frozen=True)
class Source:
    """A network's configuration and, where there are weights, how to read them."""

    config: Config
    load: Callable[[], tuple[Config, checkpoint.Arrays]] | None = None


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

    known: what the catalogue knows of it; it has the last word on numerics and preprocessing.
    """
    folder = place if isinstance(place, Folder) else Folder(Path(place))
    if CONFIG not in folder.names:
        raise CorruptFile(f"{folder} has no {CONFIG}: it is not a weights directory.")
    file = folder.file(CONFIG)
    values = _read_json(file)
    if "keras_cnn" in values:
        ours = values["keras_cnn"]
        if not isinstance(ours, dict):
            raise CorruptFile(f"{file}: the value of 'keras_cnn' is not an object: fetch it again.")
        if ours.get("format") != FORMAT:
            raise CorruptFile(
                f"{file} has format {ours.get('format')!r}, this version reads {FORMAT}: upgrade keras-cnn."
            )
        config = _named(file, catalog.config_from_dict, ours)
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


def finite(config: Config, values: checkpoint.Arrays) -> tuple[Config, checkpoint.Arrays]:
    """The same; warns of NaN and infinite values, which spread through every prediction."""
    if bad := checkpoint.not_finite(values):
        where = config.provenance.get("source", config.architecture)
        text = f"{where}: {len(bad)} arrays hold NaN or infinite values, such as {bad[0]}: do not use these weights."
        warnings.warn(text, WeightsWarning, stacklevel=2)
    return config, values


def save_pretrained(model: Any, path: str | os.PathLike[str], *, half: bool = False, **provenance: Any) -> Path:
    """Write a model of ours as a weights directory, head included, which `build(path)` reads back.

    half: kernels in float16, half the size. provenance: facts for config.json and the model card, such as
    `metrics={"accuracy": 0.91}`, `data=...`, `command=...`, `license=...`; they add to what the model knows.
    All files are written aside first, then renamed. Raises BadSpec for a model that is not of ours, or no longer what
    its configuration says, such as a quantised one: `build` could not read it back.
    """
    path = Path(path)
    config = config_of(model)
    check_readable(model, config)
    facts = commands.public({**config.provenance, **provenance})
    config = config.with_(provenance=facts or {"source": "random weights"})
    path.mkdir(parents=True, exist_ok=True)
    with _alone(path), tempfile.TemporaryDirectory(dir=path, prefix=".") as folder:
        new = Path(folder)
        checkpoint.save(checkpoint.arrays(model), new / WEIGHTS, half=half)
        (new / CONFIG).write_text(config_text(config, {WEIGHTS: record(new / WEIGHTS)}))
        figures = [name for name in card.FIGURES if (path / name).is_file()]
        (new / CARD).write_text(card.card(config, path.name, figures=figures), encoding="utf-8")
        for name in (WEIGHTS, CONFIG, CARD):  # all are whole before the first takes its place
            os.replace(new / name, path / name)
    return path


def check_readable(model: Any, config: Config) -> None:
    """BadSpec for a model whose arrays are not those of its configuration, before anything is written."""
    mend = "save it before `quantize` or `enable_lora`, or keep this form with model.save('NAME.keras')."
    if odd := [k for k, v in checkpoint.variables(model).items() if "float" not in str(v.dtype)]:
        raise BadSpec(f"{model.name} is quantised ({odd[0]} holds {checkpoint.variables(model)[odd[0]].dtype}): {mend}")
    wanted = tally.variables(tally.tally(config))
    found = {key: tuple(v.shape) for key, v in checkpoint.variables(model).items()}
    if differ := [key for key in wanted | found if wanted.get(key) != found.get(key)]:
        raise BadSpec(
            f"{model.name} is no longer the network that its configuration describes: {len(differ)} arrays differ, "
            f"such as {differ[0]}. If layers were changed or added by hand, keep it with model.save('NAME.keras'); "
            f"otherwise {mend}"
        )


def config_of(model: Any) -> Config:
    """The configuration that a model of ours carries, also after `keras.saving.load_model`."""
    config = catalog.config_from_dict(record_of(model))
    shape = tuple(model.input_shape[1:])
    return config.with_(spec=dataclasses.replace(config.spec, input_shape=shape))


def config_text(config: Config, files: Mapping[str, Mapping[str, Any]]) -> str:
    """config.json; `files`: size and sha256 of the files beside it."""
    return json.dumps({"keras_cnn": {"format": FORMAT, **config.to_dict(), "files": files}}, indent=1) + "\n"


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Writers of one directory take turns, so that its hashes are those of its files; no lock file is left."""
    try:
        import fcntl
    except ImportError:  # Windows: the last writer wins file by file
        yield
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _named(file: Path, parse: Callable[[dict[str, Any]], Config], values: dict[str, Any]) -> Config:
    """Parse a configuration; errors name its file."""
    try:
        return parse(values)
    except KerasCnnError as error:
        raise type(error)(f"{file}: {error}") from None


def _checked(folder: Folder, config: Config, files: Any) -> checkpoint.Arrays:
    """Our arrays: the file that config.json names, with the keys and shapes of its network."""
    if not isinstance(files, dict) or not isinstance(files.get(WEIGHTS), dict):
        raise CorruptFile(f"{folder.path / CONFIG} does not name {WEIGHTS} under 'files': fetch it again.")
    for name in files:
        safe_name(name, str(folder.path / CONFIG))
    expected = files[WEIGHTS]
    path = folder.file(WEIGHTS, Print(f"sha256:{expected.get('sha256')}", expected.get("size")))
    values = checkpoint.load(path)
    try:  # before a graph of the size that the configuration claims is allocated
        checkpoint.check(tally.variables(tally.tally(config)), values)
        checkpoint.check_floats(values)
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
