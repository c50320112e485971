"""The command that writes data down for fast reading."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from keras_cnn.cli import console
from keras_cnn.cli.datasets import Dataset
from keras_cnn.cli.options import JSON, with_data


@with_data
def pack(
    data: Dataset,
    out: Annotated[Path, typer.Argument(help="Folder for the shards and their index.")],
    size: Annotated[int, typer.Option(min=0, help="Short side to shrink images to, in pixels; 0 keeps files.")] = 0,
    task: Annotated[str | None, typer.Option(help="What labels mean, where they could be meant otherwise.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was packed into OUT.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Write a data set once as tar shards with an index, which train at the speed of the disk.

    Whatever takes DATA takes OUT then. Stopped, the same command goes on.
    """
    from keras_cnn.data.packing import pack as write

    try:
        made = write(data.source, out, size=size or None, task=task, skip_bad=data.skip_bad, overwrite=overwrite)
    except KeyboardInterrupt as stop:
        stop.add_note(f"{console.quoted(out)} keeps the shards that are done: the same command goes on")
        raise
    if as_json:
        return console.print_json({**made._asdict(), "path": str(made.path)})
    counts = ", ".join(f"{count:,} {name}" for name, count in made.images.items())
    console.show(f"{console.quoted(out)} holds {counts} images in {made.shards} shards, {made.size / 2**20:,.1f} MiB.")
    if made.skipped:
        console.show(f"unreadable images left out: {len(made.skipped)}, such as {made.skipped[0]}")
