"""What a run leaves for people: the figures of what it wrote, on its card; pictures; and one page with all of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from keras_cnn import tasks
from keras_cnn.building import build
from keras_cnn.checkpoints import arrays, directory
from keras_cnn.errors import BadData, BadSpec
from keras_cnn.insight import plots
from keras_cnn.insight import report as page
from keras_cnn.models.fields import known_options
from keras_cnn.training import distribution, state
from keras_cnn.training.callbacks import LongHistory
from keras_cnn.training.evaluation import evaluate
from keras_cnn.training.precision import building_in

MISTAKES = 12  # that are shown with their images


class Report(NamedTuple):
    """metrics: figures by split and name, of each split that was held out. pictures: names of the files that were drawn
    beside the weights. page: all of it as one self-contained file of HTML. history: figures by epoch.
    """

    metrics: dict[str, Any]
    pictures: list[str]
    page: Path
    history: dict[str, list[Any]]


@known_options
def report(run: str | os.PathLike[str], data: Any) -> Report:
    """Score what a run wrote, the best epoch, on the images that were held out; and leave pictures, card and page.

    ```python
    kc.fine_tune(model, data, out="runs/photos")
    kc.report("runs/photos", data).metrics
    ```

    run: the directory of a complete run of `train` or `fine_tune`. data: what it learnt from (`load_data`,
    `load_sequences`), with validation or test images.
    The network is read from there, in float32, as it will be used: kernels may be stored as float16, and it may have
    learnt in another precision. The command line calls this at the end of each run. Raises BadSpec where there is no
    complete run, BadData for images without splits, CorruptFile where the record is damaged.
    """
    out = Path(run)
    if not (out / state.RUN).exists():
        raise BadSpec(f"{out} holds no complete run of train or fine_tune: give the directory that was its `out`.")
    if not hasattr(data, "sizes"):
        raise BadData("give what load_data or load_sequences made: its images say which split they are of.")
    net, scores = distribution.apart(lambda: _scored(out, data))
    task, history = tasks.of(net), LongHistory(net)
    history.add(*state.read_end(out / state.RUN)["history"])
    metrics = {f"{name} {key}": value for name, result in scores.items() for key, value in result.metrics.items()}
    # Pictures first: the card shows those that are there.
    plots.learning_curves(history.history, out / "curves.png", task.judged_by)
    last = scores.get("test") or scores.get("val")
    pictures = ["curves.png", *(last.pictures(str(out)) if last else {})]
    # The run wrote these weights and their origin already; the card learns what they scored.
    written = directory.read(out).config.provenance
    directory.save_pretrained(net, out, half=_half(out), provenance={**written, "metrics": metrics})
    told = {key: written.get(key) for key in ("command", "data")}
    shown = page.write(
        out,
        title=f"{net.name}: {len(history.epoch)} epochs",
        scores=metrics,
        pictures=pictures,
        mistakes=_mistakes(last, data, "test" if "test" in scores else "val"),
        facts={**told, "images": ", ".join(f"{name} {count:,}" for name, count in data.sizes.items())},
    )
    return Report(metrics, pictures, shown, history.history)


def _scored(out: Path, data: Any) -> tuple[Any, dict[str, Any]]:
    """The network that a run wrote, and how good it is on each split that was held out."""
    with building_in("float32"):
        net = build(out)
    return net, {name: evaluate(net, data, split=name) for name in data.sizes if name != "train"}


def _mistakes(result: Any, data: Any, split: str) -> Iterator[tuple[str, Any]]:
    """What is said of each of the worst mistakes, with its image where the data has it at hand."""
    worst = result.worst(MISTAKES) if hasattr(result, "worst") else []
    named = {row.get("image") for row in worst}
    known = {}
    if worst and hasattr(data, "each"):
        if split not in data.held:  # else all would be decoded for the sake of a few
            whole = dict(data.splits.items())[split]
            few = whole.some([i for i, source in enumerate(whole.sources) if source.name in named])
            data = replace(data, splits=replace(data.splits, **{split: few}))
        every = enumerate(data.each(split))
        known = {key: image for i, (name, image, _) in every for key in (name, f"images[{i}]") if key in named}
    short = lambda value: f"{value:.3g}" if isinstance(value, float) else str(value)  # noqa: E731
    for row in worst:
        yield ", ".join(f"{key}: {short(value)}" for key, value in row.items()), known.get(row.get("image"))


def _half(out: Path) -> bool:
    """Whether the run stored its kernels as float16."""
    return any(value.dtype == "float16" for value in arrays.load(out / directory.WEIGHTS).values())
