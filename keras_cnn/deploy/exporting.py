"""A network as a file for another runtime, which is run there and compared before anyone has it."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn import files
from keras_cnn.building import build
from keras_cnn.deploy import engines, formats, trained_on
from keras_cnn.deploy.fold import unfolded
from keras_cnn.deploy.formats import FORMATS
from keras_cnn.deploy.opened import SUFFIXES, about_of
from keras_cnn.errors import BadSpec, CannotWrite, KerasCnnError
from keras_cnn.models.config import record_of
from keras_cnn.models.fields import known_options, one_of

TOLERANCE = 1e-4  # of the largest output: float32's rounding in another order
SAMPLES = 4


@dataclass(frozen=True)
class Exported:
    """What `export` wrote. path: the file or folder; about: the JSON beside it; format; size in bytes, of all its
    files; difference: the largest between its outputs and the network's own, on the samples."""

    path: Path
    about: Path
    format: str
    size: int
    difference: float


@known_options
def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    batch: int | None = None,
    samples: Any = None,
    overwrite: bool = False,
) -> Exported:
    """Write a network as a file for another runtime: `kc.export("runs/photos", "photos.onnx")`.

    The file holds everything, preprocessing included: raw values of 0..255 in, float32 (batch, height, width,
    channels), and the answers that the network gives, its first output. Batch norms are folded into convolutions. It is
    run in its own runtime before it is put in place, and refused where it answers otherwise than the network.
    Beside it stands `PATH.json`: what the input is, class names, task, where the weights come from, and hashes; and,
    where `model` names a run's directory, `PATH.seen.txt`, by which `evaluate` tells the images that it was trained on.

    model: a network of ours, whatever `build` takes, or any functional Keras model of one input.
    path: ends in .onnx (ONNX), .xml (OpenVINO, with a .bin beside it), .tflite (LiteRT), or in none of them: a folder
        for TensorFlow's SavedModel. format: "onnx", "openvino", "litert" or "savedmodel", by default as the path ends.
    batch: images that the file takes at once, for runtimes and devices that ask for a fixed number; by default any.
        Where such a file stands for a network, as in `predictor`, fewer images are filled up with zeros.
    samples: raw images, an array, to compare with; by default four of noise.
    Raises BadSpec for a path that does not fit the format, and where the file's outputs differ; MissingPackage, which
    says what to install; CannotWrite where something is there, unless it is to be replaced (overwrite=True),
    and where nothing can be written.

    >>> import keras_cnn as kc, tempfile
    >>> made = kc.export(kc.build("resnet20"), tempfile.mkdtemp() + "/small.tflite")
    >>> made.format, made.path.name, made.about.name, made.difference < 1e-4
    ('litert', 'small.tflite', 'small.tflite.json', True)
    """
    path = Path(path)
    if batch is not None and batch < 1:
        raise BadSpec(f"batch={batch!r}: give 1 or more, or leave it out for any number.")
    name = target(path, format, overwrite)
    given, model = model, build(model) if isinstance(model, str | os.PathLike) else model
    network = engines.for_prediction(model)
    images = _samples(network, samples)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.beside(path) as folder:
        try:
            formats.write(network, folder / path.name, name, batch)
            runner = formats.run(folder / path.name, name, batch=batch)
            difference = _difference(network, runner, images)
        except KerasCnnError:
            raise
        except Exception as error:  # each tool has its own
            why = formats.lacking(name, network, error)
            raise BadSpec(f"{why} Nothing was written; try another format.") from error
        if not difference <= TOLERANCE:
            raise BadSpec(
                f"{name} answers otherwise than {network.name}: its outputs differ by {difference:.2g} of the largest, "
                f"where rounding explains {TOLERANCE:g}; nothing was written. Try another format."
            )
        facts = {**facts_of(model, network, batch), "format": name, "difference": difference}
        size = put(folder, path, facts, given)
    return Exported(path, about_of(path), name, size, difference)


def target(path: Path, format: str | None, overwrite: bool) -> str:
    """The format of a file to be written; BadSpec where the path does not fit it, CannotWrite where it is taken, or
    its folder cannot be written to.

    format: what was asked for, None for what the path ends in.
    """
    name = _format(path, format)
    wanted = {path.name, about_of(path).name, *([path.with_suffix(".bin").name] if name == "openvino" else [])}
    if not overwrite and (there := [one for one in sorted(wanted) if os.path.lexists(path.parent / one)]):
        raise CannotWrite(f"{path.parent / there[0]} is already there: overwrite=True replaces it.")
    files.check_writable(path.parent)
    return name


def put(folder: Path, path: Path, facts: dict[str, Any], given: Any) -> int:
    """Move the files of a folder to where `path` is, with what is known of them beside; their size in bytes.

    given: what was asked to be exported: of a run, its training images are known as well.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    size = sum((folder / name).stat().st_size for name in names)
    known = trained_on.keep(given, trained_on.beside(folder / path.name))
    if known is None:
        trained_on.beside(path).unlink(missing_ok=True)  # of what is replaced
    text = json.dumps({**facts, "seen": known, "sha256": formats.hashed(folder, names)}, indent=1)
    files.write_text(folder / about_of(path).name, text + "\n")
    for made in sorted(folder.iterdir(), key=lambda one: one.name == path.name):  # what is asked for comes last
        _put(made, path.parent / made.name)
    return size


def _format(path: Path, format: str | None) -> str:
    name = format or SUFFIXES.get(path.suffix.lower(), "savedmodel")
    one_of("format", name, tuple(FORMATS))
    if path.suffix.lower() != FORMATS[name].suffix and (FORMATS[name].suffix or path.suffix.lower() in SUFFIXES):
        raise BadSpec(f"{path}: files of {name} end in {FORMATS[name].suffix or 'nothing: it is a folder'}.")
    if not FORMATS[name].suffix and path.suffix and not format:
        raise BadSpec(
            f"{path}: give a file that ends in {', '.join(SUFFIXES)}, or format='savedmodel' for a folder of this name."
        )
    return name


def _samples(network: Any, samples: Any) -> np.ndarray:
    """Raw images to compare with."""
    shape = tuple(side or engines.SIDE for side in network.inputs[0].shape[1:])
    if samples is None:
        return np.random.default_rng(0).integers(0, 256, (SAMPLES, *shape)).astype("float32")
    images = np.asarray(samples, "float32")
    if images.ndim != len(shape) + 1 or not len(images):
        raise BadSpec(f"samples have the shape {images.shape}: give (images, {', '.join(map(str, shape))}).")
    return images


def _difference(network: Any, runner: formats.Runner, images: np.ndarray) -> float:
    """The largest difference between outputs, as a share of the largest of them."""
    wanted = np.asarray(network.predict_on_batch(images), "float32")
    found = runner(images)
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), np.finfo("float32").tiny))


def facts_of(model: Any, network: Any, batch: int | None = None) -> dict[str, Any]:
    """What who runs the file needs to know: of any model its shapes, of ours all that it remembers. batch: of a file
    that takes so many images, and no other number."""
    [given], [made] = network.inputs, network.outputs
    try:
        record = record_of(model)
    except BadSpec:
        record = None
    return {
        "input": {"name": "input", "shape": [batch, *given.shape[1:]], "dtype": "float32"},
        "output": {"shape": [batch, *made.shape[1:]], "dtype": "float32"},
        "network": record,
        "unfolded": unfolded(network),
    }


def _put(made: Path, place: Path) -> None:
    """Move a file or folder into place, over what was there."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    os.replace(made, place)
    files.flush(place.parent)
