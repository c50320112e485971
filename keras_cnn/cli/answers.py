"""Commands that use a network: on labelled images, and on any."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.options import BATCH, DATA, JSON, MODEL, SIZE, SKIP_BAD, WEIGHTS
from keras_cnn.errors import BadData
from keras_cnn.files import write_beside
from keras_cnn.terminal import progress

if TYPE_CHECKING:
    from keras_cnn.tasks import Result


def evaluate(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; default test, else val, else all images.")
    ] = None,
    size: Annotated[int, SIZE] = 0,
    batch_size: Annotated[int, BATCH] = 128,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory for the picture that shows the result.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a network on labelled images.

    Images that a run was trained on, as its directory knows them, are left out and told apart.
    """
    from keras_cnn.data import index

    found = index(data, val_split=0.0, training=False)
    split = split or found.items()[-1][0]
    runs.tell_ignored(found.ignored)
    net, _, kc = runs.network(model, weights, size)
    run = model if weights is None and Path(model).is_dir() else None
    result = kc.evaluate(net, found, split=split, run=run, batch_size=batch_size, skip_bad=skip_bad)
    known = result.trained_on
    before: dict[str, Any] = _figures(known) if known else {"images": 0}
    facts = {"split": split, **_figures(result), "skipped": len(result.skipped), "trained_on": before}
    drawn: dict[str, str] = {}
    if out and len(result):
        out.mkdir(parents=True, exist_ok=True)
        drawn = result.pictures(out)
    details = result.details() if len(result) else {}
    if as_json:
        before["names"] = list(known.names) if known else []
        return console.print_json({**facts, **details, "skipped_names": list(result.skipped)})
    console.show(*tables.evaluation(f"{model} on {data}", facts, details, known.names if known else ()))
    for name, title in drawn.items():
        console.show("", f"{console.quoted(cast(Path, out) / name)} shows {title}.")


def _figures(result: Result) -> dict[str, Any]:
    """Counts and shares, and the interval of each accuracy; of no images, their number alone."""
    if not len(result):
        return {"images": 0}
    right = {name: getattr(result, name) for name in ("correct",) if hasattr(result, name)}
    return {**right, **result.metrics, **{f"{key}_interval": list(pair) for key, pair in result.intervals.items()}}


def predict(
    images: Annotated[list[str], typer.Argument(help="Image files, folders of them, .zip files.")],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    batch_size: Annotated[int, BATCH] = 32,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File for the answers: .csv or .json.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what images show."""
    from keras_cnn.data.index import find_images

    if out and out.suffix.lower() not in WRITERS:
        raise BadData(f"--out {out}: give a file that ends in {' or '.join(WRITERS)}.")
    sources = [source for path in images for source in find_images(path)]
    net, _, kc = runs.network(model, weights, size)
    answer = kc.predictor(net, batch_size=batch_size)
    bad = list[str]()
    answers: Iterable[Any] = _told(answer.stream(sources, top=top, skip_bad=skip_bad), bad)
    if out or as_json or not sys.stdout.isatty():  # elsewhere the answers themselves show how far it is
        answers = progress(answers, "predicting", len(sources))
    if out:
        with _unwritten(out):
            write_beside(out, lambda path: WRITERS[out.suffix.lower()](path, answers))
        told = {"out": str(out), "images": len(sources) - len(bad), "skipped": bad}
        if as_json:
            console.print_json(told)
        else:
            console.show(f"{console.quoted(out)} holds the answers for {told['images']:,} images.")
    elif as_json:
        console.print_json([_facts(answer) for answer in answers])
    else:
        for answer in answers:
            if not answer.error:
                console.show(*tables.answer(answer.name, answer.lines()))
    if bad:
        console.note(f"{len(bad):,} of {len(sources):,} images could not be read and are left out.")


def _told(answers: Iterable[Any], bad: list[str]) -> Iterator[Any]:
    """The answers; those of images that cannot be read are told of, and named in `bad`."""
    for answer in answers:
        if answer.error:
            console.note(f"left out: {answer.error}")
            bad.append(answer.name)
        yield answer


def _facts(answer: Any) -> dict[str, Any]:
    """An answer as JSON has it; for an image that cannot be read, why."""
    return {"image": answer.name, "error": answer.error} if answer.error else answer.facts()


def _csv(path: str, answers: Iterable[Any]) -> None:
    """A line an image, with the columns of the first one that can be read; for one that cannot, why."""
    bad: list[dict[str, Any]] = []
    writer: Any = None
    with open(path, "w", newline="", encoding="utf-8") as file:
        for answer in answers:
            line = {"image": answer.name, **({} if answer.error else answer.columns()), "error": answer.error}
            if answer.error and writer is None:  # the columns are not known yet
                bad.append(line)
                continue
            if writer is None:
                writer = csv.DictWriter(file, list(line))
                writer.writeheader()
            for one in (*bad, line):
                writer.writerow({title: tables.cell(value) for title, value in one.items()})
            bad = []
        if bad:
            writer = csv.DictWriter(file, list(bad[0]))
            writer.writeheader()
            writer.writerows({title: tables.cell(value) for title, value in one.items()} for one in bad)


def _json(path: str, answers: Iterable[Any]) -> None:
    """What --json prints; an answer a line."""
    with open(path, "w", encoding="utf-8") as file:
        for i, answer in enumerate(answers):
            file.write((",\n" if i else "[\n") + json.dumps(_facts(answer)))
        file.write("\n]\n")


WRITERS: dict[str, Callable[[str, Iterable[Any]], None]] = {".csv": _csv, ".json": _json}


@contextlib.contextmanager
def _unwritten(out: Path) -> Iterator[None]:
    """On Ctrl-C, note that nothing was written."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"{console.quoted(out)} was not written")
        raise
