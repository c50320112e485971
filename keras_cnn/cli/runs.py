"""The runs that several commands share: a network beside the data that it is to see, fine-tuned, scored, written down.

The data is decoded before a framework starts, so that bad input is told at once.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from keras_cnn import files, terminal
from keras_cnn.checkpoints import commands
from keras_cnn.cli import console
from keras_cnn.training import state
from keras_cnn.training.options import FineTuneOptions

STATES = (state.STATE, "study.csv")  # what a run, or a study, goes on from


def network(name: str, weights: str | None, size: int) -> tuple[Any, Any, Any]:
    """(network, its configuration, the package) at a size."""
    from keras_cnn.hub import resolve

    found = resolve(name, weights)
    if found.load is None:
        console.note(
            f"note: {name} has random weights, so its answers mean nothing: a tag or directory brings trained ones."
        )
    kc = console.framework(training=False)
    from keras_cnn.checkpoints.directory import config_of

    net = kc.build(name, weights=weights, input_shape=shape_at(found.config.input_shape, size))
    return net, config_of(net), kc


def pretrained(
    data: str, model: str, weights: str | None, size: int, augment: str, skip_bad: bool, seed: int, batch_size: int
) -> tuple[Any, Any]:
    """(network with a head for the data's classes, data seen as the network's weights expect)."""
    from keras_cnn.hub import resolve

    found = resolve(model, weights)
    if found.load is None:
        console.note(f"note: {model} has random weights; a tag or directory brings trained ones.")
    shape = shape_at(found.config.input_shape, size)
    loaded = load(data, found.config.preprocess.at_size(shape[:2]), shape, batch_size, augment, skip_bad, seed)
    kc = console.framework(seed)
    return kc.build(model, weights=weights, input_shape=shape, classes=loaded.class_names), loaded


def finetune(
    data: str,
    model: str,
    out: str,
    options: FineTuneOptions,
    *,
    weights: str | None = None,
    size: int = 0,
    augment: str = "light",
    skip_bad: bool = False,
    before: bool = False,
    as_json: bool = False,
    resume: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Fine-tune, and score the best epoch."""
    state.check(out, resume, overwrite)
    net, loaded = pretrained(data, model, weights, size, augment, skip_bad, options.seed, options.batch_size)
    import keras_cnn as kc
    from keras_cnn.training import evaluation

    first = next(iter(evaluation.evaluate(net, loaded, split="val").metrics.values())) if before else None
    with stoppable(out, resume), files.holding(out):  # scores belong to the run
        history = kc.fine_tune(
            net,
            loaded,
            out=out,
            resume=resume,
            overwrite=overwrite,
            options=options,
            verbose=console.verbosity(as_json),
            provenance={"command": command(), "data": commands.last_name(data)},
        )
        found = history.baselines
        baselines = {"linear_probe": found.linear, "nearest_neighbours": found.knn} if found else {}
        return {**baselines, **score(net, loaded, history.history, out, before=first)}


@contextlib.contextmanager
def stoppable(out: str, resume: bool = True) -> Iterator[None]:
    """On Ctrl-C, note what `out` keeps, and how to go on. resume: whether the same command does."""
    try:
        yield
    except KeyboardInterrupt as stop:
        place = Path(out)
        if any((place / name).exists() for name in STATES):
            again = "the same command" if resume else "the same command with --resume"
            stop.add_note(f"{console.quoted(out)} keeps what is done: {again} goes on")
        elif (place / "model.safetensors").exists():
            stop.add_note(f"{console.quoted(out)} holds the best epoch so far")
        else:
            stop.add_note(f"nothing is kept in {console.quoted(out)}")
        raise


def made_by(verb: str, out: str) -> bool:
    """Whether the weights in a directory were made by this command."""
    try:
        command = json.loads((Path(out) / "config.json").read_text(encoding="utf-8"))["keras_cnn"]["provenance"][
            "command"
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return command.startswith(f"keras-cnn {verb}")


def study(
    data: str,
    model: str,
    out: str,
    *,
    weights: str | None,
    size: int,
    augment: str,
    skip_bad: bool,
    batch_size: int,
    sizes: Sequence[int],
    seeds: Sequence[int],
    epochs: int,
    as_json: bool,
) -> dict[str, list[dict[str, Any]]]:
    """Learn the data from scratch and from pretrained weights, at several sizes."""
    net, loaded = pretrained(data, model, weights, size, augment, skip_bad, 0, batch_size)
    import keras_cnn as kc
    from keras_cnn.training import study

    config = kc.config_of(net)

    def build(trained: bool) -> Any:
        if trained:
            return kc.build(model, weights=weights, input_shape=config.input_shape, classes=loaded.class_names)
        return kc.build(config.with_(provenance={}), classes=loaded.class_names)

    told = {"sizes": sizes, "seeds": seeds, "epochs": epochs, "verbose": console.verbosity(as_json)}
    rows = kc.study(build, loaded, out, **told)
    summary = study.summarise(rows)
    found = {"methods": summary, "gains": study.gains(summary)}
    return {part: [line._asdict() for line in lines] for part, lines in found.items()}


def score(
    net: Any, loaded: Any, history: dict[str, list[float]], out: str, before: float | None = None
) -> dict[str, Any]:
    """Score the best epoch on the held-out images, draw the pictures, put the figures on the card."""
    from keras_cnn import tasks
    from keras_cnn.checkpoints import directory
    from keras_cnn.checkpoints.directory import save_pretrained
    from keras_cnn.insight import plots
    from keras_cnn.training import evaluation

    scores = {name: evaluation.evaluate(net, loaded, split=name) for name in loaded.sizes if name != "train"}
    metrics = {f"{name} {key}": value for name, result in scores.items() for key, value in result.metrics.items()}
    monitor = tasks.of(net).monitor
    figure = monitor.removeprefix("val_")
    # Pictures first: the card shows those that are there.
    plots.learning_curves(history, Path(out) / "curves.png", figure)
    last = scores.get("test") or scores.get("val")
    drawn = last.pictures(out) if last else {}
    # The run wrote these weights and their origin already; the card learns what they scored.
    written = directory.read(out).config.provenance
    save_pretrained(net, out, half=_stored_half(out), provenance={**written, "metrics": metrics})
    frozen = [
        v for v, phase in zip(history.get(monitor, []), history.get("phase", []), strict=False) if phase == "head"
    ]
    return {
        "before": before,
        "head_only": max(frozen) if frozen else None,
        **metrics,
        "figure": figure,
        "pictures": ["curves.png", *drawn],
        "images": loaded.sizes,
        "skipped": len(loaded.skipped),
        "out": out,
    }


def load(
    data: str,
    preprocess: Any,
    shape: tuple[int | None, int | None, int],
    batch_size: int,
    augment: str,
    skip_bad: bool,
    seed: int = 0,
) -> Any:
    """The data set, decoded and told of; done before the framework starts, so that bad input is told at once."""
    from keras_cnn import data as data_

    loaded = data_.load_data(
        data,
        preprocess,
        batch_size=batch_size,
        augment=None if augment == "none" else augment,
        skip_bad=skip_bad,
        channels=shape[-1],
        seed=seed,
    )
    if terminal.shown:
        console.note(f"{data}: {loaded.summary}{_more(loaded)}")
    tell_ignored(loaded.ignored)
    if loaded.canvas:
        console.note("note: training sees a random part of each photo, another one in every epoch")
    return loaded


def tell_ignored(files: Sequence[str]) -> None:
    if files:
        console.note(f"note: files that are no images were ignored, {len(files)} in all, such as {files[0]}")


def _more(loaded: Any) -> str:
    """What to say where photos are far larger than the network sees them."""
    side, found = max(loaded.preprocess.size), loaded.look.sizes
    large = found and statistics.median(map(min, found)) >= 1.5 * side
    return f" (--size {2 * side} shows more)" if large else ""


def shape_at(shape: tuple[int | None, int | None, int], size: int) -> tuple[int | None, int | None, int]:
    return (size, size, shape[-1]) if size else shape


def _stored_half(out: str) -> bool:
    """Whether the run stored its kernels as float16."""
    from keras_cnn.checkpoints import arrays
    from keras_cnn.checkpoints.directory import WEIGHTS as FILE

    return any(v.dtype == "float16" for v in arrays.load(Path(out) / FILE).values())


def command() -> str:
    # typer brings a click of its own
    from typer.main import get_current_context  # pyright: ignore[reportPrivateImportUsage]

    return commands.command(get_current_context())
