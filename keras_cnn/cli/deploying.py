"""Commands that carry networks elsewhere, and tell how fast they answer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.options import JSON, MODEL, SIZE, WEIGHTS


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
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a network as a file for another runtime, run it there, and compare.

    Raw pixels go in, whatever the network's own preprocessing; OUT.json says what comes out.
    """
    from keras_cnn.hub import resolve

    net, kc = runs.network(resolve(model, weights), model, weights, size)
    made = kc.export(net, out, format=format, overwrite=overwrite)
    if as_json:
        facts = {"out": str(made.path), "about": str(made.about), "format": made.format, "bytes": made.size}
        return console.print_json({**facts, "difference": made.difference})
    console.show(
        f"{console.quoted(made.path)} holds the network as {made.format}, {made.size / 2**20:.1f} MiB; run there, its "
        f"answers differ by at most {made.difference:.1g} of the largest. {console.quoted(made.about)} says what goes "
        "in and what comes out."
    )


def benchmark(
    models: Annotated[list[str], typer.Argument(help="Architectures, tags, or weights directories.")],
    engine: Annotated[
        list[str] | None, typer.Option(help="keras, tensorflow, openvino, onnx, litert; again for several.")
    ] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Images at once; again for several.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of measuring, for each.")] = 3.0,
    bfloat16: Annotated[bool, typer.Option(help="Measure openvino in bfloat16 too.")] = True,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure how fast networks answer here, by each engine that is installed."""
    kc = console.framework(training=False)
    told = {"batches": tuple(batch or (1, 32)), "seconds": seconds, "bfloat16": bfloat16}
    found = kc.benchmark(models, engine=engine or (), **told)
    if as_json:
        return console.print_json([row._asdict() for row in found])
    console.show(*tables.speeds(found))
