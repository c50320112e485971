"""Facts as tables for people; `--json` shows the same facts as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.table import Table

Facts = Mapping[str, Any]


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


def table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for i, column in enumerate(columns):
        figures = bool(i and column)  # a long name wraps, so that the figures beside it are never cut
        table.add_column(column, justify="right" if figures else "left", no_wrap=figures, overflow="fold")
    return table


def pairs(title: str, values: Facts) -> Table:
    rows = table(title, "")
    for key, value in values.items():
        rows.add_row(key, number(value))
    return rows


def networks(rows: Sequence[Facts]) -> Table:
    """Summaries of `describe.summary`."""
    found = table("", "parameters", "MACs", "input", "classes")
    for row in rows:
        size = "x".join(str(n) for n in row["input_shape"])
        found.add_row(row["name"], count(row["parameters"]), count(row["macs"]), size, str(row["classes"]))
    return found


def weights(rows: Sequence[Facts]) -> Table:
    """Summaries of tags."""
    found = table("", "top-1", "parameters", "MACs", "licence")
    for row in rows:
        known = row.get("top1") is not None
        found.add_row(
            row["name"],
            f"{row['top1']:.2f} % at {row['top1_size']}" if known else "",
            count(row["parameters"]),
            count(row["macs"]),
            row["license"] + ("" if row.get("commercial", True) else " [red](!)[/red]"),
        )
    if not all(row.get("commercial", True) for row in rows):
        found.caption = "(!) not for commercial use"
    return found


def facts(of: Facts) -> Table:
    """What `describe.info` knows, without the costs of the stages."""
    pre, provenance = of["preprocess"], of["provenance"]
    some = ", ".join(of["class_names"][:5]) + (", ..." if len(of["class_names"]) > 5 else "")
    told = ("source", "license", "data", "command", "limits")
    rows = {
        "architecture": of["architecture"],
        "stages": ", ".join([*of["stages"], "head"]),
        "parameters": count(of["parameters"]),
        "MACs": f"{count(of['macs'])} at {'x'.join(str(n) for n in of['input_shape'])}",
        "classes": f"{of['classes']}  {some}",
        "evaluation": f"{pre['size'][0]}x{pre['size'][1]}, crop {pre['crop']:g}, {pre['interpolation']}",
        "mean, std": ", ".join("(" + ", ".join(f"{v:.4g}" for v in pre[key]) + ")" for key in ("mean", "std")),
        **{key: str(provenance[key]) for key in told if provenance.get(key)},
        **provenance.get("metrics", {}),
    }
    return pairs(of["name"], rows)


def stages(of: Facts) -> Table:
    """Costs by stage, and what of its parameters learns."""
    rows = table("\nstage", "layers", *COST_TITLES, "trainable")
    for stage, costs in of["profile"].items():
        rows.add_row(stage, str(costs["layers"]), *_costs(costs), count(costs["trainable"]))
    rows.add_row("all", "", *_costs(of), count(of["trainable"]))
    return rows


def ways(scaled: Sequence[Facts], budget: float) -> Table:
    """Rows of `scaling.spend`."""
    rows = table(f"\n{budget:g} times the MACs by", "layers", "image", *COST_TITLES)
    for row in scaled:
        rows.add_row(row["way"], str(row["layers"]), str(row["side"]), *_costs(row))
    return rows


def files(records: Facts) -> Table:
    """Size and sha256 of files by name."""
    rows = table("file", "bytes", "")
    for name, record in records.items():
        rows.add_row(name, f"{record['size']:,}", f"sha256 {record['sha256']}")
    return rows


def accuracies(results: Facts) -> Table:
    """Before and after a run."""
    titles = {
        "before": "before: a new head, untrained",
        "nearest_neighbours": "nearest neighbours among the features",
        "linear_probe": "a linear probe of the features",
        "head_only": "the head trained, backbone frozen",
        "val accuracy": "after: the best epoch",
        "test accuracy": "after, on the test images",
    }
    rows = table("", "accuracy")
    for key, title in titles.items():
        if results.get(key) is not None:
            rows.add_row(title, f"{results[key]:.1%}")
    return rows


def study(found: Mapping[str, Sequence[Facts]], out: str) -> tuple[Table, Table]:
    """Summaries and gains of `transfer.expectations`."""
    rows = table("images", "method", "first epoch", "gain an epoch", "best epoch", "spread")
    last = None
    for line in found["methods"]:
        shares = [f"{line[key]:.1%}" for key in ("first", "slope", "best", "spread")]
        rows.add_row(str(line["images"]) if line["images"] != last else "", line["method"], *shares)
        last = line["images"]
    rows.caption = f"{out} holds the learning curves: study.csv, summary.csv, gains.csv, study.png"
    gains = table("over random weights", "first epoch", "gain an epoch", "best epoch")
    for line in found["gains"]:
        gains.add_row(f"{line['images']} images", *(f"{line[key]:+.1%}" for key in ("start", "slope", "asymptote")))
    return rows, gains


def guesses(answer: Facts) -> Table:
    """The most probable classes of an image."""
    rows = table(answer["image"], "probability")
    for guess in answer["top"]:
        rows.add_row(guess["name"], f"{guess['probability']:.1%}")
    return rows


def _costs(row: Facts) -> list[str]:
    return [show(row[key]) for key, show in COSTS.items()]
