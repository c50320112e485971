"""Pictures of a run, as PNG files."""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_cnn.terminal import plain


def learning_curves(history: Mapping[str, Sequence[float]], path: str | Path, figure: str) -> Path:
    """Loss and another figure by epoch, training beside validation; a dotted line where the phase changes."""
    picture, axes = _figure(1, 2, (9, 3.6))
    phases = list(history.get("phase", []))
    changes = [i + 0.5 for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    for axis, name in zip(axes, ("loss", figure), strict=True):
        for key, label in ((name, "training"), (f"val_{name}", "validation")):
            if key in history:
                axis.plot(range(1, len(history[key]) + 1), history[key], marker="o", markersize=3, label=label)
        for change in changes:
            axis.axvline(
                change, color="gray", linestyle=":", label="more is unfrozen" if change == changes[0] else None
            )
        axis.set(xlabel="epoch", title=name)
        _whole_epochs(axis)
        axis.grid(alpha=0.3)
    if axes[1].dataLim.y1 <= 1:  # of most figures 1 is the best
        axes[1].set_ylim(None, 1)
    axes[0].legend()
    return _save(picture, path)


def confusion_matrix(counts: np.ndarray, names: Sequence[str], path: str | Path) -> Path:
    """Counts of true against predicted classes; each row is coloured by its share. Names are left out above 40."""
    size = len(counts)
    side = float(np.clip(0.45 * size + 2.2, 4, 14))
    figure, axes = _figure(1, 1, (side, side))
    axis = axes[0]
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axis, fraction=0.046, label="share of the true class")
    if size <= 40:
        shown = [plain(name) for name in names]
        axis.set_xticks(range(size), shown, rotation=90, parse_math=False)
        axis.set_yticks(range(size), shown, parse_math=False)
    if size <= 20:
        for row, column in np.ndindex(*counts.shape):
            if counts[row, column]:
                color = "white" if share[row, column] > 0.5 else "black"
                axis.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=8)
    right, total = int(np.trace(counts)), int(counts.sum())
    axis.set(xlabel="predicted", ylabel="true", title=f"{right} of {total} right ({right / max(total, 1):.1%})")
    return _save(figure, path)


def precision_recall(
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]], scores: Mapping[str, float], path: str | Path
) -> Path:
    """Precision over recall, a line a class, the best average precision first; of many classes, the best and worst."""
    ranked = sorted(curves, key=lambda name: -scores[name])
    shown = ranked if len(ranked) <= 12 else [*ranked[:6], *ranked[-6:]]
    figure, (axis,) = _figure(1, 1, (6.5, 4.2))
    for i, name in enumerate(shown):
        precision, recall = curves[name]
        axis.plot(
            recall,
            precision,
            color=f"C{i % 10}",
            linestyle="-" if i < 10 else "--",
            label=f"{scores[name]:.2f}  {plain(name)}",
        )
    axis.set(
        xlabel="recall",
        ylabel="precision",
        xlim=(0, 1),
        ylim=(0, 1.02),
        title=f"mean of {len(curves)} classes: {np.mean([scores[n] for n in curves]):.3f}",
    )
    axis.grid(alpha=0.3)
    axis.legend(title="average precision", bbox_to_anchor=(1.02, 1), loc="upper left", fontsize=8)
    return _save(figure, path)


def predicted(truth: np.ndarray, given: np.ndarray, names: Sequence[str], path: str | Path) -> Path:
    """Predicted over true values, (images, targets), a panel a target; the line is where they agree."""
    shown = list(range(min(len(names), 6)))
    figure, axes = _figure(1, len(shown), (4.2 * len(shown), 4))
    for axis, t in zip(axes, shown, strict=True):
        low, high = (f([f(truth[:, t]), f(given[:, t])]) for f in (np.min, np.max))
        axis.plot([low, high], [low, high], color="gray", linestyle=":")
        axis.scatter(truth[:, t], given[:, t], s=8, alpha=0.4)
        axis.set(xlabel="true", ylabel="predicted", aspect="equal")
        axis.set_title(plain(names[t]), parse_math=False)
        axis.grid(alpha=0.3)
    return _save(figure, path)


def masks(samples: Sequence[Any], names: Sequence[str], path: str | Path) -> Path:
    """A row an image: the photo, the true mask and the predicted one, laid over it; the colours of the classes below.

    samples: with name, iou, image (height, width, channels), truth and predicted (height, width); 255 stays bare.
    """
    figure, axes = _figure(len(samples), 3, (9.5, 2.4 * len(samples) + 0.6))
    colours = class_colours(len(names))
    for row, sample in enumerate(samples):
        photo = np.asarray(sample.image)[..., :3].astype("float32")
        photo = np.repeat(photo, 3, -1) if photo.shape[-1] == 1 else photo
        panels = (
            (None, sample.name.rpartition("/")[2]),
            (sample.truth, "true"),
            (sample.predicted, f"predicted, IoU {sample.iou:.2f}"),
        )
        for axis, (mask, title) in zip(axes[3 * row : 3 * row + 3], panels, strict=True):
            axis.imshow(overlaid(photo, mask, colours).astype("uint8"))
            axis.set_title(plain(title.rpartition("/")[2]), parse_math=False, fontsize=8)
            axis.axis("off")
    from matplotlib.patches import Patch

    occur = np.unique(np.concatenate([part.reshape(-1) for one in samples for part in (one.truth, one.predicted)]))
    shown = [c for c in occur.tolist() if c < len(names)][:24]
    handles = [Patch(color=tuple((colours[c] / 255).tolist()), label=plain(names[c])) for c in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return _save(figure, path)


def overlaid(photo: np.ndarray, mask: np.ndarray | None, colours: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """A photo under the colours of a mask; pixels without a class, 255, stay as they are."""
    if mask is None:
        return photo
    tinted = (1 - strength) * photo + strength * colours[np.minimum(mask, len(colours) - 1)]
    return np.where((mask < len(colours))[..., None], tinted, photo)


def class_colours(count: int) -> np.ndarray:
    """A colour for each class, float32 (count, 3) of 0..255: those of matplotlib's tab20, again where they end."""
    from matplotlib import colormaps

    table = np.array(colormaps["tab20"].colors) * 255  # pyright: ignore[reportAttributeAccessIssue]
    return table[np.arange(count) % len(table)].astype("float32")


def explanation(
    photo: np.ndarray,
    heats: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    bars: Sequence[tuple[str, float]] = (),
    lines: Sequence[str] = (),
    mask: np.ndarray | None = None,
    names: Sequence[str] = (),
    number: bool = False,
) -> Path:
    """A photo, what a network answers, and over the gray photo what speaks for it; a panel each.

    photo: uint8 (height, width, channels). heats: (height, width) of any size, by what they speak for; each has a scale
    of its own. bars: labels and their probabilities; lines: what is answered in words; mask: (height, width) of classes
    that are named by `names`. number: whether a number is explained: what lowers it is then shown as well.
    """
    from matplotlib.cm import ScalarMappable

    photo = np.repeat(photo[..., :1], 3, -1) if photo.shape[-1] < 3 else photo[..., :3]
    panels = 2 + len(heats)
    columns = panels if panels <= 4 else 3
    rows = -(-panels // columns)
    tall = 3.1 * photo.shape[0] / photo.shape[1]
    figure, axes = _figure(rows, columns, (3.2 * columns, rows * (tall + 0.5) + 0.9))
    for axis in axes:
        axis.axis("off")
    axes[0].imshow(photo)
    axes[0].set_title("what the network sees")
    _answered(figure, axes[1], photo, bars, lines, mask, names)
    colours, low = (_signed_colours(), -1.0) if number else (_rising_colours(), 0.0)
    whole = (0, photo.shape[1], photo.shape[0], 0)
    for axis, (title, heat) in zip(axes[2:], heats.items(), strict=False):
        most = float(np.quantile(np.abs(heat) if number else np.maximum(heat, 0), 0.995))
        axis.imshow(np.dot(photo, [0.299, 0.587, 0.114]), cmap="gray", vmin=-60, vmax=315)  # paler, so that heat shows
        axis.imshow(heat / (most or 1), cmap=colours, vmin=low, vmax=1, extent=whole, interpolation="bilinear")
        what = f"{'what' if most else 'nothing'} {'changes' if number else 'speaks for'} {plain(title)}"
        axis.set_title(textwrap.fill(what, 32), parse_math=False)
    scale = ScalarMappable(cmap=colours)
    scale.set_clim(low, 1)
    bar = figure.colorbar(scale, ax=axes, location="bottom", fraction=0.05, aspect=40, pad=0.03)
    words = (
        ("lowers it most", "changes nothing", "raises it most")
        if number
        else ("no heat: does not speak for it", "speaks for it most")
    )
    bar.set_ticks(np.linspace(low, 1, len(words)).tolist(), labels=words)
    for label, side in zip((bar.ax.get_xticklabels()[0], bar.ax.get_xticklabels()[-1]), ("left", "right"), strict=True):
        label.set_horizontalalignment(side)
    return _save(figure, path)


def _answered(
    figure: Any,
    axis: Any,
    photo: np.ndarray,
    bars: Sequence[tuple[str, float]],
    lines: Sequence[str],
    mask: np.ndarray | None,
    names: Sequence[str],
) -> None:
    """The panel of an answer: bars of probabilities, lines of text, or a mask over the photo."""
    axis.set_title("what it answers")
    if bars:
        axis.axis("on")
        places = np.arange(len(bars))
        axis.barh(places, [share for _, share in bars], 0.35, color="C0")
        for place, (label, share) in zip(places, bars, strict=True):
            text = f"{100 * share:.0f} %  {plain(label)}"
            axis.text(0, place - 0.27, text, va="bottom", parse_math=False, clip_on=True)
        axis.set(xlim=(0, 1), ylim=(len(bars) - 0.5, -0.8), yticks=[])
        axis.set_xticks([0, 0.5, 1], labels=["0 %", "50 %", "100 %"])
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.set_box_aspect(photo.shape[0] / photo.shape[1])
    elif mask is not None:
        from matplotlib.patches import Patch

        colours = class_colours(len(names))
        axis.imshow(overlaid(np.full((*mask.shape, 3), 255.0), mask, colours, 1.0).astype("uint8"))
        axis.set_aspect(photo.shape[0] / photo.shape[1] * mask.shape[1] / mask.shape[0])
        counts = np.bincount(mask.reshape(-1), minlength=len(names))[: len(names)]
        ranked = [c for c in (-counts).argsort(kind="stable").tolist() if counts[c]][:12]
        handles = [
            Patch(
                color=tuple((colours[c] / 255).tolist()),
                label=f"{100 * counts[c] / mask.size:.0f} %  {plain(names[c])}",
            )
            for c in ranked
        ]
        figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8)
    else:
        axis.set_box_aspect(photo.shape[0] / photo.shape[1])
        axis.text(0.5, 0.5, "\n".join(map(plain, lines)), ha="center", va="center", fontsize=15, parse_math=False)


def _rising_colours() -> Any:
    """From clear to yellow, red and dark: what is nothing does not hide the photo."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["YlOrRd"](np.linspace(0.1, 1, 256))
    table[:, 3] = np.linspace(0, 0.7, 256)
    return ListedColormap(table)


def _signed_colours() -> Any:
    """Blue below, clear in the middle, red above."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    table = colormaps["RdBu_r"](np.linspace(0, 1, 256))
    table[:, 3] = np.abs(np.linspace(-0.9, 0.9, 256))
    return ListedColormap(table)


def reconstructions(samples: Sequence[tuple[np.ndarray, np.ndarray]], path: str | Path) -> Path:
    """Images, and below each what a network made of it."""
    figure, axes = _figure(2, len(samples), (1.7 * len(samples), 3.6))
    for i, pair in enumerate(samples):
        for row, image in enumerate(pair):
            axis = axes[row * len(samples) + i]
            axis.imshow(np.clip(np.asarray(image), 0, 255).astype("uint8").squeeze(), cmap="gray")
            axis.axis("off")
    axes[0].set_title("images", fontsize=9)
    axes[len(samples)].set_title("reconstructions", fontsize=9)
    return _save(figure, path)


def answered(images: np.ndarray, told: Sequence[Sequence[str]], path: str | Path) -> Path:
    """Images, (images, height, width, channels), and above each what is told of it, a line a text."""
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    figure, axes = _figure(rows, columns, (2.2 * columns, 2.6 * rows))
    for axis in axes:
        axis.axis("off")
    for axis, image, lines in zip(axes, images, told, strict=False):
        axis.imshow(np.clip(np.asarray(image), 0, 255).astype("uint8").squeeze(), cmap="gray")
        axis.set_title("\n".join(plain(line.strip())[:32] for line in lines if line), parse_math=False, fontsize=8)
    return _save(figure, path)


def learning_rates(found: Any, path: str | Path) -> Path:
    """The smoothed loss over the rate (a `lr_range.Finding`), and the suggested rate."""
    figure, (axis,) = _figure(1, 1, (5.5, 3.6))
    axis.plot(found.rates, found.losses)
    axis.set_ylim(0, 2 * found.losses[0] - 0.9 * min(found.losses))  # the rise at the end would hide the fall
    at, loss = found.suggestion, found.losses[found.index]
    axis.plot([at], [loss], marker="o", color="C1", linestyle="", label=f"suggestion {at:.2g}")
    axis.axvline(at, color="gray", linestyle=":")
    axis.set(xlabel="learning rate", ylabel="loss, smoothed", xscale="log", title="half-way down the fall of the loss")
    axis.grid(alpha=0.3)
    axis.legend()
    return _save(figure, path)


def scaling(rows: Sequence[Mapping[str, Any]], title: str, path: str | Path) -> Path:
    """Parameters and activation memory over multiply-accumulates, a line a way of scaling (rows of `scaling.spend`
    at several budgets)."""
    figure, axes = _figure(1, 2, (9, 3.8))
    for axis, key, unit, label in (
        (axes[0], "parameters", 1e6, "parameters in millions"),
        (axes[1], "activations", 2**20, "activations of one image in MiB"),
    ):
        for way in dict.fromkeys(row["way"] for row in rows):
            mine = sorted((row["macs"] / 1e9, row[key] / unit) for row in rows if row["way"] == way)
            axis.plot(*zip(*mine, strict=True), marker="o", markersize=3, label=way)
        axis.set(xlabel="multiply-accumulates in billions", ylabel=label, xscale="log", yscale="log")
        axis.set_title(plain(title), parse_math=False)
        for ticks in (axis.xaxis, axis.yaxis):
            ticks.set_major_formatter("{x:g}")
            ticks.set_minor_formatter("{x:g}")
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(title="scaled by")
    return _save(figure, path)


def expectations(
    rows: Sequence[Any], path: str | Path, figure: str, best_of: Callable[[Iterable[float]], float] = max
) -> Path:
    """Learning curves of a `training.study`, a panel a size, and the best epochs over the sizes; bands and bars are the
    standard deviation over the seeds. figure: its name; best_of: min where less is better."""
    sizes, methods = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("images", "method"))
    picture, axes = _figure(1, len(sizes) + 1, (4 * (len(sizes) + 1), 4))
    best: dict[str, list[tuple[int, float, float]]] = {method: [] for method in methods}
    for axis, images in zip(axes, sizes, strict=False):
        for number, method in enumerate(methods):
            runs: dict[int, list[float]] = {}
            for row in rows:
                if (row.images, row.method) == (images, method):
                    runs.setdefault(row.seed, []).append(row.score)
            if not runs:
                continue
            shortest = min(map(len, runs.values()))
            curves = np.array([run[:shortest] for run in runs.values()])
            mean, spread, color = curves.mean(0), curves.std(0), f"C{number}"
            epochs = np.arange(1, shortest + 1)
            if shortest == 1:  # a probe has no epochs
                axis.axhline(mean[0], color=color, linestyle="--", label=method)
            else:
                axis.plot(epochs, mean, color=color, label=method)
                axis.fill_between(epochs, mean - spread, mean + spread, color=color, alpha=0.15, linewidth=0)
            peaks = np.array([best_of(curve) for curve in curves])
            best[method].append((images, float(peaks.mean()), float(peaks.std())))
        axis.set(xlabel="epoch", title=f"{images} training images")
        _whole_epochs(axis)
    for number, (method, points) in enumerate(best.items()):
        if points:
            axes[-1].errorbar(*zip(*points, strict=True), color=f"C{number}", marker="o", capsize=3, label=method)
    axes[-1].set(xlabel="training images", xscale="log", title="best epoch")
    axes[-1].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.sharey(axes[0])
    axes[0].set_ylabel(f"validation {figure}")
    return _save(picture, path)


def speeds(rows: Sequence[Any], path: str | Path) -> Path:
    """Images a second, a line a network and a panel for each number of images at once, the fastest first (rows of
    `benchmark`); as multiples of Keras' model.predict, in brackets."""
    networks, batches = (list(dict.fromkeys(getattr(row, key) for row in rows)) for key in ("network", "batch"))
    most = max(sum((row.network, row.batch) == (rows[0].network, batch) for row in rows) for batch in batches)
    size = (6.0 * len(batches), len(networks) * (1.1 + 0.34 * most))
    figure, axes = _figure(len(networks), len(batches), size)
    panels = [(network, batch) for network in networks for batch in batches]
    for axis, (network, batch) in zip(axes, panels, strict=True):
        mine = [row for row in rows if (row.network, row.batch) == (network, batch)]
        names = [row.engine if row.precision == "float32" else f"{row.engine}, {row.precision}" for row in mine]
        bars = axis.barh(range(len(mine)), [row.rate for row in mine], color="C0")
        axis.bar_label(bars, [f"{row.rate:.3g} ({row.ratio:.2f})" for row in mine], padding=3, fontsize=8)
        axis.set_yticks(range(len(mine)), map(plain, names), parse_math=False)
        axis.invert_yaxis()
        axis.margins(x=0.22)
        axis.set(xlabel="images/s (times model.predict)")
        axis.set_title(plain(f"{network}, {batch} image{'s' if batch > 1 else ''} at once"), parse_math=False)
        axis.grid(axis="x", alpha=0.3)
    return _save(figure, path)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # no display, and no global state of pyplot
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(np.atleast_1d(figure.subplots(rows, columns)).flat)


def _whole_epochs(axis: Any) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _save(figure: Any, path: str | Path) -> Path:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a name in a script that the font lacks shows as boxes
        figure.savefig(path, dpi=110)
    return Path(path)
