"""Networks in 8 bits, by the runtimes' own tools: calibrated on images, and measured before and after."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from keras_cnn import files, runtime, tasks
from keras_cnn.building import build
from keras_cnn.checkpoints.directory import config_of
from keras_cnn.data import Data, Splits, Table
from keras_cnn.data.decoding import arrays
from keras_cnn.data.splits import Split
from keras_cnn.deploy import engines, exporting, formats, scoring
from keras_cnn.deploy.formats import FORMATS
from keras_cnn.deploy.opened import about_of
from keras_cnn.deploy.sensitivity import Sensitivity, sensitivities
from keras_cnn.errors import BadData, BadImage, BadSpec, KerasCnnError, MissingPackage
from keras_cnn.models.fields import known_options, one_of
from keras_cnn.models.meaning import MEANINGS
from keras_cnn.tasks import Result
from keras_cnn.tasks.base import class_names
from keras_cnn.terminal import progress

KINDS = ("int8", "float16")  # of numbers
LOOKED_AT = 32  # images that tell how sensitive layers are


@dataclass(frozen=True)
class Quantized:
    """What `quantize` wrote. path: the file; about: the JSON beside it; format; precision: "int8" or "float16"; size
    in bytes, of all its files; calibration: images that it was fitted to; before, after: results of the network and of
    the file on the same images, each in the file's own runtime; figure: the task's, by its name; lost: of that, as
    `quantize` counts it; layers: what each costs, the most first, where that was asked for."""

    path: Path
    about: Path
    format: str
    precision: str
    size: int
    calibration: int
    before: Result
    after: Result
    figure: str
    lost: float
    layers: tuple[Sensitivity, ...] = ()


@known_options
def quantize(
    model: Any,
    data: Any,
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    precision: str = "int8",
    images: int = 300,
    split: str | None = None,
    most: float | None = 1.0,
    sensitivity: bool = False,
    batch_size: int = 128,
    skip_bad: bool = False,
    overwrite: bool = False,
) -> Quantized:
    """Write a network in 8 bits for another runtime: `kc.quantize("runs/photos", "photos/", "photos.xml")`.

    Weights become int8, a scale a filter; so do the maps between layers, by the range that they have on calibration
    images. The runtime's own tool does it: NNCF for OpenVINO, onnxruntime's for ONNX, the converter for LiteRT. The
    file takes and answers what one of `export` does, in float32, and is used as one: by `predictor`, `evaluate`,
    `benchmark` and `service`. How much faster it is, `benchmark` tells; processors with VNNI gain most.

    model: a network of ours with a head, or whatever `build` takes.
    data: labelled images, as `evaluate` takes them: a folder, zip or table, or `Data`. Calibration images are taken
        evenly by class from its training images, where it has some; else from those of `split`, which are then not
        measured on.
    path: ends in .xml (OpenVINO), .onnx or .tflite (LiteRT). format: as of `export`.
    precision: "int8"; or "float16", weights alone, which are computed with in float32: half the size, as fast.
    images: for calibration; 300 are what NNCF's and LiteRT's makers advise. split: to measure on, by default test, else
        val, else all others.
    most: what may be lost, in points (hundredths) of the figure of the task; where less is better, in
        percent of it. A file that loses more is not written. None for anything.
    sensitivity: tell what each layer costs alone, by answers to 32 of the calibration images, in `Quantized.layers`;
        takes a pass a layer.
    batch_size: images that are measured at once. skip_bad: leave unreadable files out; else they raise BadImage.
    Raises BadSpec for a network that is not of ours or reads sequences, and where too much is lost; BadData for data
    that it cannot be measured on; MissingPackage: pip install "keras-cnn[quantize]"; CannotWrite where something is
    there, unless overwrite=True, and where nothing can be written.
    """
    path = Path(path)
    one_of("precision", precision, KINDS)
    if images < 1 or batch_size < 1:
        raise BadSpec(f"images={images!r}, batch_size={batch_size!r}: give 1 or more.")
    name = exporting.target(path, format, overwrite)
    if name not in TOOLS:
        raise BadSpec(f"{path}: {name} has no 8 bits: give a file that ends in .xml, .onnx or .tflite.")
    _check_installed(name)
    given, net = model, build(model) if isinstance(model, str | os.PathLike) else model
    if config_of(net).backbone.SIDES == 1:
        raise BadSpec(f"{net.name} reads sequences: only networks for images are quantized.")
    task = tasks.of(net)
    outputs, classes = task.outputs(net), class_names(net)
    if not isinstance(data, str | os.PathLike | Table | Splits | Data):
        raise BadData(f"give a folder, zip or table of labelled images, or Data; not {type(data).__name__}.")
    splits, split = scoring.found(net, data.splits if isinstance(data, Data) else data, split)
    fitted, measured = _divided(splits, split, images)

    def result(runner: formats.Runner, what: str) -> Result:
        loaded = scoring.loaded(net, measured, split, batch_size, skip_bad)
        some, count = scoring.images_of(net, task, loaded, split, classes, outputs)
        some, run = progress(some, what, count), formats.Running(net.name, *shapes, runner, name, precision)
        with BadImage.surfacing():
            return scoring.measured(net, some, classes or loaded.class_names, batch_size, runner=run)

    path.parent.mkdir(parents=True, exist_ok=True)
    with files.beside(path) as work, files.beside(path) as folder:
        told = {"channels": net.input_shape[-1], "skip_bad": skip_bad}
        seen = arrays(fitted, scoring.loaded(net, measured, split, batch_size, skip_bad).preprocess, **told).images
        if not len(seen):
            raise BadData("not one of the calibration images can be read.")
        network = engines.for_prediction(net)
        shapes = network.inputs[0].shape, network.outputs[0].shape
        tool = TOOLS[name]
        endless = [layer.name for layer in network.layers if getattr(layer, "value", "") == "lowest"]
        if endless and precision == "int8" and not tool.endless:
            raise BadSpec(
                f"{name} has no 8 bits for {endless[0]}, which pads with minus infinity, and its runtime would crash: "
                "give a file that ends in .xml."
            )
        try:
            whole = work / f"network{FORMATS[tool.source].suffix}"
            formats.write(network, whole, tool.source)
            before = result(formats.run(whole, tool.source), "measuring before")
            with _silent():
                exact = MEANINGS[task.name].in_units
                tool.write(whole, folder / path.name, seen.astype("float32"), precision, exact)
            after = result(formats.run(folder / path.name, name), "measuring after")
        except KerasCnnError:
            raise
        except Exception as error:  # each tool has its own
            why = (str(error).strip() or type(error).__name__).splitlines()[-1][:300]
            raise BadSpec(f"{name} cannot make {precision} of {net.name}: {why} Nothing was written.") from error
        figure, lost = next(iter(before.metrics)), _lost(task, before, after)
        layers = tuple(sensitivities(network, seen[:LOOKED_AT], task)) if sensitivity else ()
        if most is not None and not lost <= most:
            what = f"{lost:.2f} {'points' if task.mode == 'max' else 'percent'} of {figure}"
            figures = f"{task.figure(before):.4f} to {task.figure(after):.4f} on {len(after):,} images"
            worst = f"most by {', '.join(layer.layer for layer in layers[:3])}; " if layers else ""
            raise BadSpec(
                f"{path} would lose {what} ({figures}), where most={most:g} may be lost: {worst}nothing was written. "
                "Another format may lose less, or allow more."
            )
        facts = {
            **exporting.facts_of(net, network),
            "format": name,
            "quantized": {
                "precision": precision,
                "calibration": len(seen),
                "images": len(after),
                "before": before.metrics,
                "after": after.metrics,
                "lost": lost,
            },
        }
        size = exporting.put(folder, path, facts, given)
    return Quantized(path, about_of(path), name, precision, size, len(seen), before, after, figure, lost, layers)


def _lost(task: Any, before: Result, after: Result) -> float:
    """Points of a share; percent of a figure that should be small."""
    one, other = task.figure(before), task.figure(after)
    if task.mode == "max":
        return 100 * (one - other)
    return 100 * (other - one) / max(abs(one), np.finfo("float32").tiny)


def _divided(splits: Splits, split: str, images: int) -> tuple[Split, Splits]:
    """(images for calibration; the data with a split that has none of them)."""
    parts = dict(splits.items())
    if split not in parts:
        raise BadData(f"the data has no split {split!r}; it has {', '.join(parts)}.")
    if split != "train" and "train" in parts:
        return parts["train"].some(evenly(parts["train"].labels, images)), splits
    count = len(parts[split].sources)
    if count < 2:
        raise BadData(f"{split} has one image, and calibration needs others than those that are measured: add some.")
    chosen = evenly(parts[split].labels, min(images, count // 2))
    left = parts[split].some(np.setdiff1d(np.arange(count), chosen))
    return parts[split].some(chosen), replace(splits, **{split: left})


def evenly(labels: np.ndarray, count: int) -> np.ndarray:
    """Places of so many images, as many of each class as there can be; in an order that mixes the classes."""
    order = np.random.default_rng(0).permutation(len(labels))
    kinds = labels[order] if labels.ndim == 1 and labels.dtype.kind in "iu" else np.zeros(len(order), int)
    rank = np.empty(len(order), int)
    for kind in np.unique(kinds):
        rank[kinds == kind] = np.arange((kinds == kind).sum())
    return order[np.argsort(rank, kind="stable")[:count]]


# --- the runtimes' own tools ------------------------------------------------------------------------------------------


def _openvino(source: Path, out: Path, images: np.ndarray, precision: str, exact: bool) -> None:
    openvino = formats.untold("openvino")
    network = openvino.Core().read_model(str(source))
    if precision == "int8":
        nncf = formats.untold("nncf")
        data = nncf.Dataset([image[None] for image in images])
        # MIXED: activations that are not symmetric, such as swish, keep all 8 bits.
        preset = nncf.QuantizationPreset.MIXED
        # Depthwise kernels stay float32: OpenVINO takes no scales along the axis that their filters lie in.
        apart = nncf.IgnoredScope(types=["GroupConvolution"], validate=False)
        # By default ranges are the mean of the images' extremes, and what lies beyond is cut off: classes bear that.
        ranges: Any = importlib.import_module("nncf.quantization.range_estimator").RangeEstimatorParametersSet
        whole = nncf.AdvancedQuantizationParameters(activations_range_estimator_params=ranges.MINMAX)
        options = {"preset": preset, "ignored_scope": apart, "advanced_parameters": whole if exact else None}
        network = nncf.quantize(network, data, subset_size=len(images), **options)
    openvino.save_model(network, str(out), compress_to_fp16=precision == "float16")


def _onnx(source: Path, out: Path, images: np.ndarray, precision: str, exact: bool) -> None:
    if precision == "float16":
        return _onnx_float16(source, out)
    tool: Any = importlib.import_module("onnxruntime.quantization")
    [given] = _onnx_inputs(source)

    class Reader(tool.CalibrationDataReader):
        def __init__(self) -> None:
            self.images = ({given: image[None]} for image in images)

        def get_next(self) -> Any:
            return next(self.images, None)

    kinds = {"activation_type": tool.QuantType.QUInt8, "weight_type": tool.QuantType.QInt8, "per_channel": True}
    # Without VNNI two products of 8 bits are added up in 16, which overflow where weights have all 8.
    vnni = {"avx512_vnni", "avx_vnni", "avx512vnni", "asimddp", "i8mm"} & runtime.instructions()
    every: Any = importlib.import_module("onnxruntime.quantization.registry").QDQRegistry
    kinds["op_types_to_quantize"] = sorted({*every} - {"Softmax"})  # most probabilities of many classes are below 1/256
    tool.quantize_static(str(source), str(out), Reader(), reduce_range=not vnni, **kinds)


def _onnx_inputs(source: Path) -> list[str]:
    onnx: Any = importlib.import_module("onnx")
    return [one.name for one in onnx.load(str(source), load_external_data=False).graph.input]


def _onnx_float16(source: Path, out: Path) -> None:
    """Weights as float16, each with a cast behind it, which onnxruntime does once, when it reads the file."""
    onnx: Any = importlib.import_module("onnx")
    network = onnx.load(str(source))
    casts = []
    for weight in network.graph.initializer:
        if weight.data_type == onnx.TensorProto.FLOAT and np.prod(weight.dims) > 1:
            name, value = weight.name, onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(value.astype("float16"), f"{name}/float16"))
            casts.append(onnx.helper.make_node("Cast", [weight.name], [name], to=onnx.TensorProto.FLOAT))
    for cast in casts:
        network.graph.node.insert(0, cast)
    onnx.save(network, str(out))


def _litert(source: Path, out: Path, images: np.ndarray, precision: str, exact: bool) -> None:
    import tensorflow as tf

    lite: Any = tf.lite
    converter = lite.TFLiteConverter.from_saved_model(str(source))
    converter.optimizations = [lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    else:
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        # Selective quantization: most probabilities of many classes are below 1/256.
        told = lite.experimental.QuantizationDebugOptions(denylisted_ops=["SOFTMAX"])
        tool = lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=converter.representative_dataset, debug_options=told
        )
        converter = SimpleNamespace(convert=tool.get_nondebug_quantized_model)
    out.write_bytes(converter.convert())


@dataclass(frozen=True)
class Tool:
    """How a format gets 8 bits. write: from a float32 file, a target, images (n, ...) float32, a precision, and whether
    the outputs are numbers in a unit, so that nothing may be cut off on the way to them.

    source: the format of that file. modules: that it needs beside those of the format. endless: whether maps with minus
    infinity in them do not spoil the others.
    """

    write: Callable[[Path, Path, np.ndarray, str, bool], None]
    source: str
    modules: tuple[str, ...] = ()
    endless: bool = True


TOOLS: Mapping[str, Tool] = {
    "openvino": Tool(_openvino, "openvino", ("nncf",)),
    "onnx": Tool(_onnx, "onnx"),
    "litert": Tool(_litert, "savedmodel", endless=False),
}


def _check_installed(name: str) -> None:
    formats.format_of(name, writing=True)
    for module in TOOLS[name].modules:
        if importlib.util.find_spec(module) is None:
            raise MissingPackage(f'quantize needs {module} for {name}: pip install "keras-cnn[quantize]".')


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Without the bars that the tools print between a program's results."""
    with formats.quiet(), contextlib.redirect_stdout(io.StringIO()):
        yield
