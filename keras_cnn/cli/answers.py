"""Commands that use a network: on labelled images, and on any."""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.options import BATCH, DATA, JSON, MODEL, SIZE, SKIP_BAD, WEIGHTS
from keras_cnn.errors import BadData
from keras_cnn.files import write_beside
from keras_cnn.terminal import progress

if TYPE_CHECKING:
    from keras_cnn.training.evaluation import Result

Answer = Mapping[str, Any]


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
        Path | None, typer.Option("--out", "-o", help="Directory for the picture of the confusion matrix.")
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
    if out and len(result):
        out.mkdir(parents=True, exist_ok=True)
        _draw(result, out / "confusion.png")
    if as_json:
        before["names"] = list(known.names) if known else []
        return console.print_json({**facts, **_details(result), "skipped_names": list(result.skipped)})
    console.show(*tables.evaluation(f"{model} on {data}", facts, _details(result), known.names if known else ()))
    if out and len(result):
        console.show("", f"{console.quoted(out / 'confusion.png')} shows the confusion matrix.")


def _figures(result: Result) -> dict[str, Any]:
    """Counts and shares, and the interval of each accuracy; of no images, their number alone."""
    intervals = {f"{key}_interval": list(interval) for key, interval in result.intervals.items()}
    return {"correct": result.correct, **result.metrics, **intervals} if len(result) else {"images": 0}


def _details(result: Result) -> dict[str, Any]:
    """By class, the confusion matrix, the pairs that are confused most, and the worst mistakes."""
    if not len(result):
        return {}
    return {
        "classes": [row for row in result.by_class() if row["images"] or row["precision"] is not None],
        "confusion": result.confusion().tolist(),
        "confused": result.confused(),
        "worst": result.worst(),
    }


def _draw(result: Result, path: Path) -> None:
    """The confusion matrix of the classes that occur."""
    import numpy as np

    from keras_cnn.insight import plots

    occur: list[int] = np.unique(np.concatenate([result.labels, result.predicted])).tolist()
    plots.confusion_matrix(result.confusion()[np.ix_(occur, occur)], [result.name_of(i) for i in occur], path)


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
    """Name what images show."""
    from keras_cnn.data.index import find_images

    if out and out.suffix.lower() not in WRITERS:
        raise BadData(f"--out {out}: give a file that ends in {' or '.join(WRITERS)}.")
    sources = [source for path in images for source in find_images(path)]
    net, config, kc = runs.network(model, weights, size)
    answer = kc.predictor(net, batch_size=batch_size)
    bad = list[str]()
    answers: Iterable[Answer] = _told(answer.stream(sources, top=top, skip_bad=skip_bad), bad)
    top = min(top, config.head.classes)  # columns of a .csv
    if out or as_json or not sys.stdout.isatty():  # elsewhere the answers themselves show how far it is
        answers = progress(answers, "predicting", len(sources))
    if out:
        with _unwritten(out):
            write_beside(out, lambda path: WRITERS[out.suffix.lower()](path, answers, top))
        told = {"out": str(out), "images": len(sources) - len(bad), "skipped": bad}
        if as_json:
            console.print_json(told)
        else:
            console.show(f"{console.quoted(out)} holds the answers for {told['images']:,} images.")
    elif as_json:
        console.print_json(list(answers))
    else:
        for answer in answers:
            if "top" in answer:
                console.show(*tables.guesses(answer))
    if bad:
        console.note(f"{len(bad):,} of {len(sources):,} images could not be read and are left out.")


def _told(answers: Iterable[Any], bad: list[str]) -> Iterator[Answer]:
    """Answers as JSON has them; of images that cannot be read, why: such are told, and named in `bad`."""
    for answer in answers:
        if answer.error:
            console.note(f"left out: {answer.error}")
            bad.append(answer.name)
            yield {"image": answer.name, "error": answer.error}
            continue
        guesses = [{"class": label, "name": name, "probability": share} for label, share, name in answer.top]
        yield {"image": answer.name, "top": guesses}


def _csv(path: str, answers: Iterable[Answer], top: int) -> None:
    """A line an image: its guesses beside each other, the best first; for one that cannot be read, why."""
    keys = ("class", "name", "probability")
    titles = [key if i == 1 else f"{key}_{i}" for i in range(1, top + 1) for key in keys]
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["image", *titles, "error"])
        writer.writeheader()
        for answer in answers:
            guesses = [guess[key] for guess in answer.get("top", ()) for key in keys]
            line = {"image": answer["image"], **dict(zip(titles, guesses, strict=False)), "error": answer.get("error")}
            writer.writerow({title: tables.cell(value) for title, value in line.items()})


def _json(path: str, answers: Iterable[Answer], top: int) -> None:
    """What --json prints; an answer a line."""
    with open(path, "w", encoding="utf-8") as file:
        for i, answer in enumerate(answers):
            file.write((",\n" if i else "[\n") + json.dumps(answer))
        file.write("\n]\n")


WRITERS: dict[str, Callable[[str, Iterable[Answer], int], None]] = {".csv": _csv, ".json": _json}


@contextlib.contextmanager
def _unwritten(out: Path) -> Iterator[None]:
    """On Ctrl-C, note that nothing was written."""
    try:
        yield
    except KeyboardInterrupt as stop:
        stop.add_note(f"{console.quoted(out)} was not written")
        raise
