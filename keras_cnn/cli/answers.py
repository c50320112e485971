"""Commands that use a network: on labelled images, and on any."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.options import BATCH, DATA, JSON, MODEL, SIZE, SKIP_BAD, WEIGHTS
from keras_cnn.errors import BadData
from keras_cnn.files import write_beside
from keras_cnn.terminal import progress

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
    from keras_cnn.cli import scores
    from keras_cnn.data import index, seen, survey
    from keras_cnn.training import evaluation

    found = index(data, val_split=0.0, training=False)
    splits = dict(found.items())  # train, val, test
    split = split or [*splits][-1]
    if split not in splits:
        raise BadData(f"{data} has no split {split!r}; it has {', '.join(splits)}.")
    runs.tell_ignored(found.ignored)
    net, config, _ = runs.network(model, weights, size)
    labels = evaluation.align(found.class_names, config.class_names, config.head.classes)
    trained = seen.read(model) if weights is None and Path(model).is_dir() else set()
    window = survey.window(found, (split,), config.preprocess.window)  # of gray images of more than 8 bits
    config = config.with_(preprocess=dataclasses.replace(config.preprocess, window=window))
    new, known, skipped = scores.answers(net, config, splits[split], labels, batch_size, skip_bad, trained)
    if not (new.images or known.images):
        raise BadData(f"{data}: not one image of {split} can be read.")
    names = config.class_names or found.class_names
    facts = {"split": split, **scores.figures(new), "skipped": len(skipped), "trained_on": scores.figures(known)}
    details = scores.details(new, names)
    if out and new.images:
        out.mkdir(parents=True, exist_ok=True)
        scores.draw(new, names, out / "confusion.png")
    if as_json:
        facts["trained_on"]["names"] = known.images
        return console.print_json({**facts, **details, "skipped_names": skipped})
    console.show(*tables.evaluation(f"{model} on {data}", facts, details, known.images))
    if out and new.images:
        console.show("", f"{console.quoted(out / 'confusion.png')} shows the confusion matrix.")


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
    net, config, _ = runs.network(model, weights, size)
    if not config.head.classes:
        raise BadData(f"{model} has no classifier: it gives features, not classes.")
    top, bad = min(top, config.head.classes), list[str]()
    answers: Iterable[Answer] = _answers(net, config, sources, top, batch_size, skip_bad, bad)
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


def _answers(
    net: Any, config: Any, sources: Sequence[Any], top: int, batch_size: int, skip_bad: bool, bad: list[str]
) -> Iterator[Answer]:
    """What an image shows, for each in order; for one that cannot be read, why. Such are told, and named in `bad`."""
    from keras_cnn.data.stream import decoded
    from keras_cnn.training import evaluation

    names = config.class_names or tuple(f"class {i}" for i in range(config.head.classes))
    described = config.provenance.get("class_descriptions", {})
    channels = config.channels
    images = decoded(sources, config.preprocess, channels=channels, ahead=2 * batch_size, skip_bad=skip_bad)
    for source, image, row in evaluation.classify(net, images, batch_size):
        if row is None:
            console.note(f"left out: {image}")
            bad.append(source.name)
            yield {"image": source.name, "error": str(image)}
            continue
        best = (-row).argsort()[:top]
        guesses = [
            {"class": names[i], "name": described.get(names[i], names[i]), "probability": float(row[i])} for i in best
        ]
        yield {"image": source.name, "top": guesses}


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
