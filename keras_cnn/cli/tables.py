"""Facts as tables for people; `--json` shows the same facts as they are."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_cnn.terminal import cell as cell
from keras_cnn.terminal import plain

Facts = Mapping[str, Any]
GAP = "  "
MOST_CLASSES, MOST_PAIRS, MOST_NAMES = 40, 10, 3  # that are told; --json has all


@dataclass
class Table:
    """Lines of cells under titles. texts: how many of the first columns are text; those behind them are figures."""

    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    texts: int = 1
    caption: str = ""

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def lines(self, width: int | None = None) -> list[str]:
        """Never folded, never cut: where columns do not fit beside each other, they stand below each other."""
        texts = [[plain(text) for text in row] for row in (self.columns, *self.rows)]
        widths = [max(map(_width, column)) for column in zip(*texts, strict=True)]
        beside = width is None or sum(widths) + len(GAP) * (len(widths) - 1) <= width
        lines = [self._beside(row, widths) for row in texts] if beside else self._below(texts)
        return [*lines, *([plain(self.caption)] if self.caption else [])]

    def _beside(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = []
        for i, (text, width) in enumerate(zip(row, widths, strict=True)):
            space = " " * (width - _width(text))
            cells.append(text + space if i < self.texts else space + text)
        return GAP.join(cells).rstrip()

    def _below(self, texts: Sequence[Sequence[str]]) -> list[str]:
        (first, *others), *rows = texts
        lines = [first] if first else []
        for name, *cells in rows:
            lines.append(name)
            lines += [f"{GAP}{title} {text}".rstrip() for title, text in zip(others, cells, strict=True) if text]
        return lines


def _width(text: str) -> int:
    """Of a text on a terminal; Chinese and emoji are two wide."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def count(n: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return str(n)


def mebibytes(n: int) -> str:
    return f"{n / 2**20:.1f} MiB"


def number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


COSTS: dict[str, Callable[[int], str]] = {"parameters": count, "macs": count, "activations": mebibytes}
COST_TITLES = ("parameters", "MACs", "activations")


def pairs(title: str, values: Facts) -> Table:
    rows = Table((title, ""), texts=2)
    for key, value in values.items():
        rows.add(key, number(value))
    return rows


def findings(found: Sequence[Any]) -> Table:
    """Of `kc.lint`: a message for each layer."""
    rows = Table(("layer", "rule", "", "parameters"), texts=3)
    for finding in found:
        cost = "" if finding.parameters is None else str(finding.parameters)
        rows.add(finding.layer, finding.rule, finding.message, cost)
    spare = sum(finding.parameters or 0 for finding in found)
    count = f"{len(found)} finding{'s' * (len(found) != 1)}"
    rows.caption = f"{count}; {spare} parameters could be left out." if spare else f"{count}."
    return rows


def networks(rows: Sequence[Facts]) -> Table:
    """Summaries of `info.summary`."""
    found = Table(("", "parameters", "MACs", "input", "classes"))
    for row in rows:
        size = "x".join(str(n) for n in row["input_shape"])
        found.add(row["name"], count(row["parameters"]), count(row["macs"]), size, str(row["classes"]))
    return found


def weights(rows: Sequence[Facts]) -> Table:
    """Summaries of tags."""
    found = Table(("", "top-1", "parameters", "MACs", "licence"))
    for row in rows:
        known = row.get("top1") is not None
        found.add(
            row["name"],
            f"{row['top1']:.2f} % at {row['top1_size']}" if known else "",
            count(row["parameters"]),
            count(row["macs"]),
            row["license"] + ("" if row.get("commercial", True) else " (!)"),
        )
    if not all(row.get("commercial", True) for row in rows):
        found.caption = "(!) not for commercial use"
    return found


def facts(of: Facts) -> Table:
    """What `info.info` knows, without the costs of the stages."""
    pre, provenance = of["preprocess"], of["provenance"]
    some = ", ".join(of["class_names"][:5]) + (", ..." if len(of["class_names"]) > 5 else "")
    told = ("source", "license", "data", "command", "limits")
    rows = {
        "architecture": of["architecture"],
        "stages": ", ".join([*of["stages"], "head"]),
        "parameters": count(of["parameters"]),
        "MACs": f"{count(of['macs'])} at {'x'.join(str(n) for n in of['input_shape'])}",
        "classes": f"{of['classes']}  {some}",
        **(_sequences(of) if len(pre["size"]) == 1 else _evaluation(pre)),
        **{key: str(provenance[key]) for key in told if provenance.get(key)},
        **provenance.get("metrics", {}),
    }
    return pairs(of["name"], rows)


def _evaluation(pre: Facts) -> Facts:
    return {
        "evaluation": f"{pre['size'][0]}x{pre['size'][1]}, crop {pre['crop']:g}, {pre['interpolation']}",
        "mean, std": ", ".join("(" + ", ".join(f"{v:.4g}" for v in pre[key]) + ")" for key in ("mean", "std")),
    }


def _sequences(of: Facts) -> Facts:
    where = "none of them later" if of["causal"] else "as many before as after"
    return {"receptive field": f"{of['receptive_field']} steps, {where}"}


def stages(of: Facts) -> Table:
    """Costs by stage, and what of its parameters learns."""
    rows = Table(("stage", "layers", *COST_TITLES, "trainable"))
    for stage, costs in of["profile"].items():
        rows.add(stage, str(costs["layers"]), *_costs(costs), count(costs["trainable"]))
    rows.add("all", "", *_costs(of), count(of["trainable"]))
    return rows


def ways(scaled: Sequence[Facts], budget: float) -> Table:
    """Rows of `scaling.spend`."""
    rows = Table((f"{budget:g} times the MACs by", "layers", "image", *COST_TITLES))
    for row in scaled:
        rows.add(row["way"], str(row["layers"]), str(row["side"]), *_costs(row))
    return rows


def files(records: Facts) -> Table:
    """Size and sha256 of files by name."""
    rows = Table(("file", "bytes", "sha256"))
    for name, record in records.items():
        rows.add(name, f"{record['size']:,}", record["sha256"])
    return rows


def gained(results: Facts, spec: str) -> Table:
    """Before and after a run. spec: how people read its figure, as `format` takes it."""
    titles = {
        "before": "before: a new head, untrained",
        "nearest_neighbours": "nearest neighbours among the features",
        "linear_probe": "a linear probe of the features",
        "head_only": "the head trained, backbone frozen",
    }
    figure = results["figure"]
    titles |= {f"val {figure}": "after: the best epoch", f"test {figure}": "after, on the test images"}
    rows = Table(("", figure))
    for key, title in titles.items():
        if results.get(key) is not None:
            rows.add(title, format(results[key], spec))
    return rows


def study(found: Mapping[str, Sequence[Facts]], out: str, spec: str) -> tuple[Table, Table]:
    """Summaries and gains of `training.study`. spec: how people read its scores, as `format` takes it."""
    rows = Table(("images", "method", "first epoch", "gain an epoch", "best epoch", "spread"))
    last = None
    for line in found["methods"]:
        scores = [format(line[key], spec) for key in ("first", "slope", "best", "spread")]
        rows.add(str(line["images"]) if line["images"] != last else "", line["method"], *scores)
        last = line["images"]
    rows.caption = f"{shlex.quote(out)} holds the learning curves: study.csv, summary.csv, gains.csv, study.png"
    gains = Table(("over random weights", "first epoch", "gain an epoch", "best epoch"))
    for line in found["gains"]:
        gains.add(
            f"{line['images']} images", *(format(line[key], f"+{spec}") for key in ("start", "slope", "asymptote"))
        )
    return rows, gains


def evaluation(title: str, facts: Facts, details: Facts, trained_on: Sequence[str]) -> list[Table]:
    """What `scores` found; trained_on: names of the images that are left out because of it."""
    told = [_scored(title, facts)]
    if trained_on:
        told.append(_scored("the same on images that it was trained on", facts["trained_on"]))
        told[-1].caption = f"they are left out above: {_some(trained_on)}"
    if classes := details.get("classes"):
        figure = list(classes[0])[-1]
        worst = sorted(classes, key=lambda row: -1 if row[figure] is None else row[figure])
        rows = _rows(classes if len(classes) <= MOST_CLASSES else worst[:MOST_CLASSES])
        if len(classes) > MOST_CLASSES:
            rows.caption = f"the {MOST_CLASSES} classes that are found least; --json has all {len(classes):,}"
        told.append(rows)
    if targets := details.get("targets"):
        told.append(_rows(targets, shares=False))
    if pairs := details.get("confused"):
        rows = Table(("most confused", "taken for", "images"), texts=2)
        for pair in pairs[:MOST_PAIRS]:
            rows.add(pair["true"], pair["predicted"], f"{pair['images']:,}")
        told.append(rows)
    if mistakes := details.get("worst"):
        shares = {"probability", "iou"} >= {key for key, value in mistakes[0].items() if isinstance(value, float)}
        told.append(_rows([{"worst mistakes": row["image"], **row} for row in mistakes], shares, without="image"))
    return told


def _rows(lines: Sequence[Facts], shares: bool = True, without: str = "") -> Table:
    """A table of facts with the same keys: texts, whole numbers, and figures, which may be shares."""
    keys = [key for key in lines[0] if key != without]
    texts = sum(isinstance(lines[0][key], str) for key in keys)
    rows = Table(tuple(keys), texts=texts)
    for line in lines:
        rows.add(*(_shown(line[key], shares) for key in keys))
    return rows


def _shown(value: str | int | float | None, shares: bool) -> str:
    if isinstance(value, str | int):
        return value if isinstance(value, str) else f"{value:,}"
    return _share(value) if shares else "-" if value is None else f"{value:.4g}"


def _scored(title: str, facts: Facts) -> Table:
    """Figures, each share with its interval beside it."""
    rows = Table((title, "", ""), texts=3)
    for key, value in facts.items():
        if isinstance(value, int | float | str):
            low, high = facts.get(f"{key}_interval", (None, None))
            rows.add(key, number(value), "" if low is None else f"{low:.4f} to {high:.4f} with 95 % confidence")
    return rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMES]) + (f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else "")


def answer(name: str, lines: Sequence[str]) -> list[str]:
    """An image, and what it shows below it."""
    return [name, *(f"{GAP}{line}" for line in lines)]


def _costs(row: Facts) -> list[str]:
    return [show(row[key]) for key, show in COSTS.items()]


def throughput(found: Any) -> list[str | Table]:
    """How fast a network learns, and what it waits for."""
    table = Table(("training", "images/s", f"ms for {found.batch_size}"))
    parts = {"pipeline alone": found.pipeline, "step alone": found.step, "both": found.both}
    for what, rate in parts.items():
        table.add(what, f"{rate:.1f}", f"{1e3 * found.batch_size / rate:.1f}")
    told = {
        "pipeline": "The pipeline is the bottleneck: `keras-cnn pack DATA OUT --size N` makes reading cheaper.",
        "step": "The step is the bottleneck: the data comes faster than the network learns.",
    }
    return [table, told[found.bottleneck]]


def speeds(rows: Sequence[Any]) -> list[str | Table]:
    """How fast networks answer, a table for each network and number of images at once."""
    shown: list[str | Table] = []
    for network, batch in dict.fromkeys((row.network, row.batch) for row in rows):
        what = f"{network}, {batch} image{'s' if batch > 1 else ''} at once"
        figures = ("ms", "95 % within", "images/s", "times model.predict", "share of peak", "ready in s", "MiB")
        mine = [row for row in rows if (row.network, row.batch) == (network, batch)]
        cost = f"{mine[0].macs / 1e9:.3g} billion multiply-accumulates an image"
        table = Table((what, "", *figures), texts=2, caption=f"{cost}; MiB: the most, conversion too")
        for row in mine:
            times = (f"{1e3 * row.median:.1f}", f"{1e3 * row.p95:.1f}", f"{row.rate:.1f}", f"{row.ratio:.2f}")
            memory = "" if row.peak_mb is None else f"{row.peak_mb:.0f}"
            table.add(row.engine, row.precision, *times, f"{row.share:.0%}", f"{row.ready:.1f}", memory)
        shown.append(table)
    return shown


def quantized(made: Any) -> list[str | Table]:
    """What `kc.quantize` wrote and what it costs; of its layers the most sensitive."""
    path = shlex.quote(str(made.path))
    told = f"{path} holds the network as {made.precision}, {made.size / 2**20:.1f} MiB, for {made.format}."
    rows = Table((f"{len(made.after):,} images", "float32", made.precision))
    for key, value in made.before.metrics.items():
        rows.add(key, number(value), number(made.after.metrics[key]))
    rows.caption = f"{made.lost:.2f} lost of {made.figure}, fitted to {made.calibration:,} other images."
    if not made.layers:
        return [told, rows]
    layers = Table(("what rounding one layer costs", "", "parameters", "error", "changed"), texts=2)
    for layer in made.layers[:MOST_CLASSES]:
        layers.add(layer.layer, layer.kind, count(layer.parameters), f"{layer.error:.2%}", _share(layer.changed))
    if len(made.layers) > MOST_CLASSES:
        layers.caption = f"the {MOST_CLASSES} most sensitive; --json has all {len(made.layers):,}"
    return [told, rows, layers]
