"""Commands that use a network: on labelled images, and on any."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from keras_cnn.cli import console, datasets, runs, tables
from keras_cnn.cli.datasets import Dataset
from keras_cnn.cli.options import (
    BATCH,
    ENGINE,
    JSON,
    MODEL,
    PRECISION,
    RUNNABLE,
    SIZE,
    SKIP_BAD,
    VIEWS,
    WEIGHTS,
    with_data,
)
from keras_cnn.errors import BadData
from keras_cnn.files import check_writable, write_beside, write_text
from keras_cnn.terminal import plain, progress

if TYPE_CHECKING:
    from keras_cnn.tasks import Result


@with_data
def evaluate(
    data: Dataset,
    model: Annotated[str, RUNNABLE],
    weights: Annotated[str | None, WEIGHTS] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; default test, else val, else all images.")
    ] = None,
    size: Annotated[int, SIZE] = 0,
    batch_size: Annotated[int, BATCH] = 128,
    views: Annotated[str | None, VIEWS] = None,
    engine: Annotated[str, ENGINE] = "keras",
    precision: Annotated[str, PRECISION] = "float32",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Directory for the picture that shows the result.")
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a network on labelled images, or sequences.

    Images that a run was trained on, as its directory knows them, are left out and told apart.
    """
    if out:
        check_writable(out)
    known = runs.known(model, weights, size)
    found, splits = datasets.to_measure(data, known.config)
    split = split or splits[-1]
    net, kc = runs.network(known, model, weights, size)
    from keras_cnn.deploy import trained_on

    told = {
        "run": trained_on.place(weights or model),
        "batch_size": batch_size,
        "skip_bad": data.skip_bad,
        "engine": engine,
        "precision": precision,
        "views": views,
    }
    result = kc.evaluate(net, found, split=split, **told)
    old = result.trained_on
    before = None if old is None else {**_figures(old), **({"names": list(old.names)} if as_json else {})}
    facts = {"split": split, **_figures(result), "skipped": len(result.skipped), "trained_on": before}
    if old is None and known.load is not None:
        console.note(
            f"note: nothing tells whether {model} was trained on some of these images: only a run's directory, and "
            "what is made of one by its name, know its training images."
        )
    drawn: dict[str, str] = {}
    if out and len(result):
        out.mkdir(parents=True, exist_ok=True)
        drawn = result.pictures(out)
    details = result.details() if len(result) else {}
    if as_json:
        return console.print_json({**facts, **details, "skipped_names": list(result.skipped)})
    console.show(*tables.evaluation(f"{model} on {data.data}", facts, details, old.names if old else ()))
    for name, title in drawn.items():
        console.show("", f"{console.quoted(cast(Path, out) / name)} shows {title}.")


def _figures(result: Result) -> dict[str, Any]:
    """Counts and shares, and the interval of each share; of no images, their number alone."""
    if not len(result):
        return {"images": 0}
    intervals = {f"{key}_interval": list(pair) for key, pair in result.intervals.items()}
    return {**result.counts, **result.metrics, **intervals}


def predict(
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, folders of them, .zip files; of sequences .npz files and tables."),
    ],
    model: Annotated[str, RUNNABLE],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    batch_size: Annotated[int, BATCH] = 32,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Of networks for pixels: see photos at their own size, by such tiles.")
    ] = None,
    views: Annotated[str | None, VIEWS] = None,
    engine: Annotated[str, ENGINE] = "keras",
    precision: Annotated[str, PRECISION] = "float32",
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="File, .csv, .parquet, .jsonl or .json; or a folder for masks and images."),
    ] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Say what images show, or how sequences are or go on.

    Answers in a file are kept as they come: the same command goes on with those of a run that was stopped or killed.
    There, an unreadable image has a line that says why, and the exit code is 2 unless --skip-bad.
    """
    from keras_cnn.data import files
    from keras_cnn.data.index import find_images
    from keras_cnn.deploy import answer_files

    drawn = out is not None and (out.is_dir() or not out.suffix)
    endings = ", ".join(answer_files.WRITERS)
    if out and not drawn and out.suffix.lower() not in answer_files.WRITERS:
        raise BadData(f"--out {out}: give a file that ends in one of {endings}.")
    known = runs.known(model, weights, size)
    sequences = known.config.backbone.SIDES == 1
    sources = images if sequences else [source for path in images for source in find_images(path)]
    if drawn and not known.config.head.EVERYWHERE:
        raise BadData(f"--out {out}: {model} answers in figures: give a file that ends in one of {endings}.")
    places = files.places(out, cast(Any, sources)) if out and drawn else []
    net, kc = runs.network(known, model, weights, size)
    answer = kc.predictor(net, batch_size=batch_size, tile=tile, engine=engine, precision=precision, views=views)
    if out and not drawn:
        work = {"top": top, "tile": tile, "precision": precision, "views": views}
        return _keep(out, answer, net, sources, work, sequences=sequences, skip_bad=skip_bad, as_json=as_json)
    read, bad = list[str](), list[str]()
    answers: Iterable[Any] = _told(answer.stream(sources, top=top, skip_bad=skip_bad), read, bad)
    if out or as_json or not sys.stdout.isatty():  # elsewhere the answers themselves show how far it is
        answers = progress(answers, "predicting", None if sequences else len(sources))
    what = "sequences" if sequences else "images"
    if out:
        if drawn:
            _draw(out, places, answers, known.config.class_names)
        told = {"out": str(out), "images": len(read), "skipped": bad}
        holds = f"what was made of {{:,}} {what}, as PNG files" if drawn else f"the answers for {{:,}} {what}"
        if as_json:
            console.print_json(told)
        else:
            console.show(f"{console.quoted(out)} holds {holds.format(told['images'])}.")
    elif as_json:
        console.print_json([_facts(answer) for answer in answers])
    else:
        for answer in answers:
            if not answer.error:
                console.show(*tables.answer(answer.name, answer.lines()))
    if bad:
        console.note(f"{len(bad):,} of {len(read) + len(bad):,} images could not be read and are left out.")


def explain(
    images: Annotated[list[str], typer.Argument(help="Image files, folders of them, .zip files.")],
    model: Annotated[str, MODEL],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the pictures, one an image.")],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    class_: Annotated[
        str | None, typer.Option("--class", "-c", help="Class or target to explain, by name or from 0.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="grad-cam, grad-cam++, score-cam, integrated-gradients or occlusion.")
    ] = "grad-cam",
    layer: Annotated[
        str | None, typer.Option(help="Layer whose maps are used, by those with cam in their name.")
    ] = None,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Draw what speaks for the answers: a picture an image, the photo beside where the answer comes from."""
    from keras_cnn.data.index import find_images
    from keras_cnn.hub import resolve

    sources = [source for path in images for source in find_images(path)]
    net, _ = runs.network(resolve(model, weights), model, weights, size)
    from keras_cnn.deploy.explaining import explanations
    from keras_cnn.insight.explained import names_of

    number = class_ is not None and class_ not in names_of(net) and class_.isdecimal()
    told = {"target": int(cast(str, class_)) if number else class_, "method": method, "layer": layer}
    read, bad, facts = list[str](), list[str](), list[dict[str, Any]]()
    made = explanations(net, sources, out, skip_bad=skip_bad, **told)
    for one in progress(_told(made, read, bad), "explaining", len(sources)):
        drawn = {} if one.error else {"explained": list(one.heats), "picture": str(one.picture)}
        facts.append({**_facts(one.answer), **drawn})
        if not as_json and not one.error:
            what = " and ".join(one.heats)
            console.show(f"{console.quoted(cast(Path, one.picture))} shows what speaks for {plain(what)}.")
    if as_json:
        console.print_json(facts)
    if bad:
        console.note(f"{len(bad):,} of {len(sources):,} images could not be read and are left out.")


def _keep(
    out: Path,
    predictor: Any,
    net: Any,
    sources: list[Any],
    work: dict[str, Any],
    *,
    sequences: bool,
    skip_bad: bool,
    as_json: bool,
) -> None:
    """Write answers to a file, and go on with those that are there; noted on Ctrl-C."""
    from keras_cnn.deploy import answer_files

    network = [answer_files.identity(net), list(net.input_shape)]
    what = "sequences" if sequences else "images"
    # A file has many sequences, which are not known before it is read: they are begun anew.
    with answer_files.partial(out, {"network": network, **work}, resume=not sequences) as kept:
        left = sources if sequences else kept.left(sources)
        if done := kept.answered:
            console.note(f"{done:,} of {done + len(left):,} {what} were answered before.")
        answers = _told(predictor.stream(left, top=work["top"], skip_bad=not sequences or skip_bad), [], [])
        try:
            kept.extend(progress(answers, "predicting", None if sequences else len(left)), predictor.batch_size)
        except KeyboardInterrupt as stop:
            how = "begins anew" if sequences else f"goes on behind the first {kept.answered:,}"
            stop.add_note(f"{console.quoted(out)} was not written: the same command {how}")
            raise
        kept.finish(out)
    bad, read = kept.bad, kept.answered - len(kept.bad)
    if as_json:
        console.print_json({"out": str(out), "images": read, "skipped": bad})
    else:
        console.show(f"{console.quoted(out)} holds the answers for {read:,} {what}.")
    if bad:
        console.note(f"{len(bad):,} of {read + len(bad):,} images could not be read; their lines in it say why.")
        if not skip_bad:
            raise typer.Exit(2)


def _draw(out: Path, places: Sequence[Path], answers: Iterable[Any], names: Sequence[str]) -> None:
    """Write the pictures of answers, and beside them what the numbers of masks mean; noted on Ctrl-C."""
    done = 0
    try:
        if names:
            write_text(out / "classes.txt", "".join(f"{plain(name)}\n" for name in names))
        for place, answer in zip(places, answers, strict=True):
            if not answer.error:
                write_beside(place, partial(answer.picture().save, format="PNG"))
                done += 1
    except KeyboardInterrupt as stop:
        stop.add_note(f"{console.quoted(out)} holds {done:,} of {len(places):,}")
        raise


def _told(answers: Iterable[Any], read: list[str], bad: list[str]) -> Iterator[Any]:
    """The answers; those of images that cannot be read are told of, and named in `bad`, all others in `read`."""
    for answer in answers:
        if answer.error:
            console.note(f"left out: {answer.error}")
        (bad if answer.error else read).append(answer.name)
        yield answer


def _facts(answer: Any) -> dict[str, Any]:
    """An answer as JSON has it; for an image that cannot be read, why."""
    return {"image": answer.name, "error": answer.error} if answer.error else answer.facts()
