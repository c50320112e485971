"""The runs that several commands share: a network beside the data that it is to see, fine-tuned, scored, written down.

The data is decoded before a framework starts, so that bad input is told at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_cnn import commands, terminal
from keras_cnn.bars import progress

if TYPE_CHECKING:
    from keras_cnn.data.index import Splits


def network(name: str, weights: str | None, size: int) -> tuple[Any, Any, Any]:
    """(network, its configuration, the package) at a size."""
    from keras_cnn.hub import resolve

    spec = resolve(name, weights).config.spec
    kc = terminal.framework()
    from keras_cnn.hub.directory import config_of

    net = kc.build(name, weights=weights, input_shape=shape_at(spec.input_shape, size))
    return net, config_of(net), kc


def pretrained(
    data: str, model: str, weights: str | None, size: int, augment: str, skip_bad: bool, seed: int, batch_size: int
) -> tuple[Any, Any]:
    """(network with a head for the data's classes, data seen as the network's weights expect)."""
    from keras_cnn.hub import resolve

    found = resolve(model, weights)
    if found.load is None:
        terminal.notes.print(f"note: {model} has random weights; a tag or directory brings trained ones.")
    shape = shape_at(found.config.spec.input_shape, size)
    loaded = load(data, found.config.preprocess.at_size(shape[:2]), shape, batch_size, augment, skip_bad, seed)
    kc = terminal.framework(seed)
    return kc.build(model, weights=weights, input_shape=shape, classes=loaded.class_names), loaded


def finetune(
    data: str,
    model: str,
    out: str,
    *,
    weights: str | None = None,
    size: int = 0,
    augment: str = "light",
    skip_bad: bool = False,
    seed: int = 0,
    batch_size: int = 32,
    before: bool = False,
    as_json: bool = False,
    **options: Any,
) -> dict[str, Any]:
    net, loaded = pretrained(data, model, weights, size, augment, skip_bad, seed, batch_size)
    import keras_cnn as kc
    from keras_cnn import evaluation

    first = evaluation.evaluate(net, loaded.val).metrics["accuracy"] if before else None
    history = kc.fine_tune(
        net,
        loaded,
        out=out,
        seed=seed,
        verbose=terminal.verbosity(as_json),
        command=command(),
        data=data_name(data),
        **options,
    )
    found = history.baselines
    baselines = {"linear_probe": found.linear, "nearest_neighbours": found.knn} if found else {}
    return {**baselines, **score(net, loaded, history.history, out, before=first)}


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
    from keras_cnn.transfer import expectations

    config = kc.config_of(net)

    def build(trained: bool) -> Any:
        if trained:
            return kc.build(model, weights=weights, input_shape=config.spec.input_shape, classes=loaded.class_names)
        return kc.build(config.spec, classes=loaded.class_names, preprocess=config.preprocess)

    told = {"sizes": sizes, "seeds": seeds, "epochs": epochs, "verbose": terminal.verbosity(as_json)}
    rows = kc.study(build, loaded, out, **told)
    summary = expectations.summarise(rows)
    found = {"methods": summary, "gains": expectations.gains(summary)}
    return {part: [line._asdict() for line in lines] for part, lines in found.items()}


def score(
    net: Any, loaded: Any, history: dict[str, list[float]], out: str, before: float | None = None
) -> dict[str, Any]:
    """Score the best epoch on the held-out images, draw the pictures, put the figures on the card."""
    from keras_cnn import evaluation
    from keras_cnn.hub import directory, save_pretrained
    from keras_cnn.insight import plots

    scores = {
        name: evaluation.evaluate(net, progress(batches, f"evaluating {name}"))
        for name, batches in (("val", loaded.val), ("test", loaded.test))
        if batches is not None
    }
    metrics = {f"{name} {key}": value for name, result in scores.items() for key, value in result.metrics.items()}
    plots.learning_curves(history, Path(out) / "curves.png")
    last = scores.get("test") or scores.get("val")
    if last:
        plots.confusion_matrix(last.confusion(), loaded.class_names, Path(out) / "confusion.png")
    # The run wrote these weights and their origin already; the card learns what they scored, and shows the pictures.
    written = directory.read(out).config.provenance
    save_pretrained(net, out, half=_stored_half(out), **{**written, "metrics": metrics})
    frozen = [
        v
        for v, phase in zip(history.get("val_accuracy", []), history.get("phase", []), strict=False)
        if phase == "head"
    ]
    return {
        "before": before,
        "head_only": max(frozen) if frozen else None,
        **metrics,
        "images": loaded.sizes,
        "skipped": len(loaded.skipped),
        "out": out,
    }


def load(
    data: str | Splits,
    preprocess: Any,
    shape: tuple[int | None, int | None, int],
    batch_size: int,
    augment: str,
    skip_bad: bool,
    seed: int = 0,
    **options: Any,
) -> Any:
    """The data set, decoded; done before the framework starts, so that bad input is told at once."""
    from keras_cnn import data as data_

    loaded = data_.load_data(
        data,
        preprocess,
        batch_size=batch_size,
        augment=None if augment == "none" else augment,
        skip_bad=skip_bad,
        channels=shape[-1],
        seed=seed,
        **options,
    )
    if loaded.ignored:
        terminal.notes.print(
            f"note: files that are no images were ignored, {len(loaded.ignored)} in all, such as {loaded.ignored[0]}"
        )
    return loaded


def shape_at(shape: tuple[int | None, int | None, int], size: int) -> tuple[int | None, int | None, int]:
    return (size, size, shape[-1]) if size else shape


def data_name(data: str) -> str:
    return commands.last_name(data)


def _stored_half(out: str) -> bool:
    """Whether the run stored its kernels as float16."""
    from keras_cnn import checkpoint
    from keras_cnn.hub.directory import WEIGHTS as FILE

    return any(v.dtype == "float16" for v in checkpoint.load(Path(out) / FILE).values())


def command() -> str:
    from typer.main import get_current_context  # typer brings a click of its own

    return commands.command(get_current_context())
