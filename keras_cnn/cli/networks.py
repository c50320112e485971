"""Commands that tell of networks; only `lint` builds one."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from keras_cnn.cli import console, tables
from keras_cnn.cli.options import JSON, SIZE
from keras_cnn.errors import KerasCnnError


def list_(
    pattern: Annotated[str, typer.Argument(help="Shell wildcard, such as 'resnet*d'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="What has weights, and what is known of them.")] = (
        False
    ),
    sort: Annotated[str, typer.Option(help="name, parameters, macs or top1.")] = "name",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List networks."""
    from keras_cnn.hub.info import list_models, summary

    orders = {
        "name": lambda row: 0,
        "parameters": lambda row: row["parameters"],
        "macs": lambda row: row["macs"],
        "top1": lambda row: -(row.get("top1") or 0),
    }
    if sort not in orders:
        raise KerasCnnError(f"--sort {sort}: choose {', '.join(orders)}.")
    rows = sorted(map(summary, list_models(pattern, pretrained=pretrained)), key=orders[sort])
    if as_json:
        return console.print_json(rows)
    if not rows:
        raise KerasCnnError(f"no network fits {pattern!r}: `keras-cnn list` shows all.")
    console.show(tables.weights(rows) if pretrained else tables.networks(rows))


def info(
    name: Annotated[str, typer.Argument(help="Architecture, tag, or weights directory.")],
    freeze: Annotated[
        str | None, typer.Option(help="What shall not learn: a stage, a share of the parameters, a regular expression.")
    ] = None,
    budget: Annotated[float, typer.Option(help="Multiply-accumulates to spend on scaling it up.")] = 2.0,
    plot: Annotated[str | None, typer.Option(help="PNG file for the picture of scaling it up.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what is known of a network; nothing is built."""
    from keras_cnn.hub import resolve
    from keras_cnn.hub.info import info as describe
    from keras_cnn.models import scaling

    facts, config = describe(name, freeze), resolve(name).config
    if budget <= 1:
        raise KerasCnnError(f"--budget {budget:g}: give a multiple of the network's own cost, above 1.")
    scaled = scaling.spend(config, budget) if scaling.scales(config) else []
    if plot:
        _plot_scaling(name, config, plot)
    if as_json:
        return console.print_json({**facts, "scaled": scaled})
    console.show(tables.facts(facts), tables.stages(facts))
    if scaled:
        console.show(tables.ways(scaled, budget))


def lint(
    model: Annotated[
        str, typer.Argument(help="Architecture, tag, weights directory, or a .keras file of a network of ours.")
    ],
    size: Annotated[int, SIZE] = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what a network has for nothing, or lacks, layer by layer.

    Findings are advice, so that the exit code is 0 with and without any. Other models: kc.lint(model) in Python.
    """
    from keras_cnn.cli import runs
    from keras_cnn.hub import resolve

    config = runs.sized(resolve(model).config, size)
    kc = console.framework(training=False)
    found = kc.lint(kc.build(model, input_shape=config.input_shape))
    if as_json:
        return console.print_json([dataclasses.asdict(finding) for finding in found])
    console.show(*([tables.findings(found)] if found else [f"{model}: nothing to say."]))


def _plot_scaling(name: str, config: Any, path: str) -> None:
    from keras_cnn.insight import plots
    from keras_cnn.models import scaling

    if not scaling.scales(config):
        raise KerasCnnError(f"{name} has no rule for scaling, so there is nothing to plot.")
    rows = [row for budget in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0) for row in scaling.spend(config, budget)]
    plots.scaling(rows, name, path)
