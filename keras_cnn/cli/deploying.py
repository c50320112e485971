"""Commands that carry networks elsewhere, and tell how fast they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_cnn import files
from keras_cnn.cli import console, datasets, runs, tables
from keras_cnn.cli.datasets import Dataset
from keras_cnn.cli.options import (
    AUGMENT,
    BATCH,
    ENGINE,
    JSON,
    MODEL,
    PRECISION,
    SIZE,
    SKIP_BAD,
    WEIGHTS,
    with_data,
)
from keras_cnn.errors import KerasCnnError


def export(
    out: Annotated[
        Path, typer.Argument(help="File: .onnx, .xml (OpenVINO) or .tflite; or a folder, for a SavedModel.")
    ],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    format: Annotated[
        str | None, typer.Option(help="onnx, openvino, litert or savedmodel; by default as OUT ends.")
    ] = (None),
    batch: Annotated[int | None, typer.Option(min=1, help="Images at once, a fixed number; by default any.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a network as a file for another runtime, run it there, and compare.

    Raw pixels go in, whatever the network's own preprocessing; OUT.json says what comes out.
    """
    from keras_cnn.hub import resolve

    net, kc = runs.network(resolve(model, weights), model, weights, size)
    made = kc.export(net, out, format=format, batch=batch, overwrite=overwrite)
    if as_json:
        facts = {"out": str(made.path), "about": str(made.about), "format": made.format, "bytes": made.size}
        return console.print_json({**facts, "difference": made.difference})
    console.show(
        f"{console.quoted(made.path)} holds the network as {made.format}, {made.size / 2**20:.1f} MiB; run there, its "
        f"answers differ by at most {made.difference:.1g} of the largest. {console.quoted(made.about)} says what goes "
        "in and what comes out."
    )


@with_data
def quantize(
    data: Dataset,
    model: Annotated[str, MODEL],
    out: Annotated[Path, typer.Option("--out", "-o", help="File: .xml (OpenVINO), .onnx or .tflite (LiteRT).")],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    precision: Annotated[str, typer.Option(help="int8; or float16, of weights alone.")] = "int8",
    images: Annotated[int, typer.Option(min=1, help="For calibration, evenly by class.")] = 300,
    split: Annotated[str | None, typer.Option(help="To measure on; default test, else val, else all others.")] = None,
    most: Annotated[float, typer.Option(help="Points that may be lost; what loses more is not written.")] = 1.0,
    sensitivity: Annotated[bool, typer.Option("--sensitivity", help="Tell what each layer costs alone.")] = False,
    batch_size: Annotated[int, BATCH] = 128,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a network in 8 bits for another runtime, and tell what that costs.

    It is fitted to training images of DATA and measured before and after on the others.
    """
    net, kc = runs.network(runs.known(model, weights, size), model, weights, size)
    told = {"precision": precision, "images": images, "split": split, "most": most, "sensitivity": sensitivity}
    more = {"batch_size": batch_size, "skip_bad": data.skip_bad, "overwrite": overwrite}
    made = kc.quantize(net, data.source, out, **told, **more)
    if as_json:
        facts = {"out": str(made.path), "about": str(made.about), "format": made.format, "precision": made.precision}
        facts |= {"bytes": made.size, "calibration": made.calibration, "lost": made.lost}
        results = {"before": made.before.metrics, "after": made.after.metrics}
        return console.print_json({**facts, **results, "layers": [vars(layer) for layer in made.layers]})
    console.show(*tables.quantized(made))


def serve(
    models: Annotated[
        list[str], typer.Argument(help="Weights directories, tags, exported files; each answers under its name.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines ask.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    batch_size: Annotated[int, BATCH] = 32,
    engine: Annotated[str, ENGINE] = "keras",
    precision: Annotated[str, PRECISION] = "float32",
    megabytes: Annotated[float, typer.Option(help="That one image may have.")] = 10.0,
    megapixels: Annotated[float, typer.Option(help="Millions of pixels that one image may have.")] = 51.0,
    seconds: Annotated[float, typer.Option(help="In which a request has to arrive.")] = 20.0,
    waiting: Annotated[int, typer.Option(help="Images that may wait; others are turned away.")] = 256,
    rate: Annotated[float, typer.Option(help="Requests a second that one address may make; 0 for any number.")] = 0.0,
) -> None:
    """Answer images over HTTP: a page for people, JSON for programs.

    Ctrl-C or SIGTERM ends it; those who wait are answered first.
    """
    console.framework(training=False)
    from keras_cnn.deploy import serving  # first, since it says what is missing

    from keras_cnn.deploy import listening  # isort: skip

    limits = serving.Limits(megabytes=megabytes, megapixels=megapixels, seconds=seconds, waiting=waiting, rate=rate)
    told = {"batch_size": batch_size, "engine": engine, "precision": precision}
    with listening.bound(host, port) as held:  # before the networks are built, which takes seconds
        listening.run(serving.service(models, limits=limits, **told), held, limits.seconds)


def benchmark(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Architectures, tags, weights directories, or exported files; none with --data."),
    ] = None,
    engine: Annotated[
        list[str] | None, typer.Option(help="keras, tensorflow, openvino, onnx, litert; again for several.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images at once; again for several.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of measuring, for each.")] = 3.0,
    bfloat16: Annotated[bool, typer.Option(help="Measure openvino in bfloat16 too.")] = True,
    vs: Annotated[
        str | None,
        typer.Option(help="Measure others beside: keras.applications, timm, onnxruntime; commas between."),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="PNG file for a picture of the speeds.")] = None,
    data: Annotated[str | None, typer.Option(help="Measure training on this data instead.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="With --data: the network that learns.")] = "resnet50",
    size: Annotated[int, SIZE] = 0,
    augment: Annotated[str, AUGMENT] = "crop",
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure how fast networks answer here, by each engine; or, with --data, how fast one learns, and what it waits
    for."""
    if (data is None) == (not models):
        raise KerasCnnError("give networks to measure as they answer, or --data DATA to measure training on.")
    if data is not None:
        if engine or vs or plot or len(batch or ()) > 1:
            raise KerasCnnError(
                "--data measures training, by Keras alone: give no --engine, --vs or --plot, and one --batch at most."
            )
        given = datasets.TrainingData(data=data, augment=augment, skip_bad=skip_bad)
        learner = runs.pretrained(given, model, None, size, 0, batch[0] if batch else 32, "auto")
        import keras_cnn as kc

        found = kc.throughput(learner.network, learner.data, seconds=3 * seconds)
        return console.print_json(found._asdict()) if as_json else console.show(*tables.throughput(found))
    if plot is not None:  # before minutes of measuring
        if plot.suffix.lower() != ".png":
            raise KerasCnnError(f"--plot {plot}: give a file that ends in .png.")
        files.check_writable(plot.parent)
    kc = console.framework(training=False)
    told = {"batches": tuple(batch or (1, 32)), "seconds": seconds, "bfloat16": bfloat16}
    others = tuple(name.strip() for name in vs.split(",")) if vs is not None else ()
    rows = kc.benchmark(models, engine=engine or (), vs=others, **told)
    if plot is not None:
        from keras_cnn.insight import plots

        plot.parent.mkdir(parents=True, exist_ok=True)
        plots.speeds(rows, plot)
    if as_json:
        return console.print_json([row._asdict() for row in rows])
    console.show(*tables.speeds(rows))
