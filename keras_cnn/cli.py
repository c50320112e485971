"""`keras-cnn`: one thin command a verb; what they do is in the library.

Exit codes: 0 success; 2 bad usage or bad input, with one sentence; 1 a bug of ours, with a traceback.
Frameworks are imported inside the commands that need them, so that `list` and `info` answer at once.
"""

from __future__ import annotations

import dataclasses
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from keras_cnn import __version__, terminal
from keras_cnn.errors import BadData, KerasCnnError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Convolutional networks for Keras 3."
)

DATA = typer.Argument(
    help="A folder with one subfolder a class (or train/ val/ test/ above them), a .zip of one, tfds:NAME, or digits."
)
MODEL = typer.Option("--model", "-m", help="Architecture, tag, or weights directory.")
WEIGHTS = typer.Option(help="Checkpoint for the architecture: .safetensors, .pth, .th, .h5.")
SIZE = typer.Option(help="Side of the square images in pixels; 0 is what the weights say.")
OUT = typer.Option("--out", "-o", help="Directory for weights, card, pictures and log.")
SKIP_BAD = typer.Option("--skip-bad", help="Leave unreadable images out, and count them.")
JSON = typer.Option("--json", help="Print JSON.")


# --- verbs ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Shell wildcard, such as 'resnet*d'.")] = "*",
    pretrained: Annotated[bool, typer.Option("--pretrained", help="What has weights, and what is known of them.")] = (
        False
    ),
    sort: Annotated[str, typer.Option(help="name, parameters, macs or top1.")] = "name",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """List networks."""
    from keras_cnn.describe import list_models, summary

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
        return terminal.print_json(rows)
    if not rows:
        raise KerasCnnError(f"no network fits {pattern!r}: `keras-cnn list` shows all.")
    terminal.console.print(_weights_table(rows) if pretrained else _networks_table(rows))


def _networks_table(rows: list[dict[str, Any]]) -> Any:
    table = terminal.table("", "parameters", "MACs", "input", "classes")
    for row in rows:
        size = "x".join(str(n) for n in row["input_shape"])
        table.add_row(
            row["name"], terminal.count(row["parameters"]), terminal.count(row["macs"]), size, str(row["classes"])
        )
    return table


def _weights_table(rows: list[dict[str, Any]]) -> Any:
    table = terminal.table("", "top-1", "parameters", "MACs", "licence")
    for row in rows:
        known = row.get("top1") is not None
        table.add_row(
            row["name"],
            f"{row['top1']:.2f} % at {row['top1_size']}" if known else "",
            terminal.count(row["parameters"]),
            terminal.count(row["macs"]),
            row["license"] + ("" if row.get("commercial", True) else " [red](!)[/red]"),
        )
    if not all(row.get("commercial", True) for row in rows):
        table.caption = "(!) not for commercial use"
    return table


@app.command()
def info(
    name: Annotated[str, typer.Argument(help="Architecture, tag, or weights directory.")],
    budget: Annotated[float, typer.Option(help="Multiply-accumulates to spend on scaling it up.")] = 2.0,
    plot: Annotated[str | None, typer.Option(help="PNG file for the picture of scaling it up.")] = None,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Show what is known of a network; nothing is built."""
    from keras_cnn import scaling
    from keras_cnn.describe import info as describe
    from keras_cnn.hub import resolve

    facts, spec = describe(name), resolve(name).config.spec
    if budget <= 1:
        raise KerasCnnError(f"--budget {budget:g}: give a multiple of the network's own cost, above 1.")
    scaled = scaling.spend(spec, budget) if scaling.scales(spec) else []
    if plot:
        _plot_scaling(name, spec, plot)
    if as_json:
        return terminal.print_json({**facts, "scaled": scaled})
    pre, provenance = facts["preprocess"], facts["provenance"]
    rows = {
        "architecture": facts["architecture"],
        "stages": ", ".join([*facts["stages"], "head"]),
        "parameters": terminal.count(facts["parameters"]),
        "MACs": f"{terminal.count(facts['macs'])} at {'x'.join(str(n) for n in facts['input_shape'])}",
        "classes": f"{facts['classes']}  {terminal.some(facts['class_names'])}",
        "evaluation": f"{pre['size'][0]}x{pre['size'][1]}, crop {pre['crop']:g}, {pre['interpolation']}",
        "mean, std": f"{terminal.floats(pre['mean'])}, {terminal.floats(pre['std'])}",
        **{
            key: str(provenance[key])
            for key in ("source", "license", "data", "command", "limits")
            if provenance.get(key)
        },
        **{key: terminal.number(value) for key, value in provenance.get("metrics", {}).items()},
    }
    table = terminal.table(facts["name"], "")
    for key, value in rows.items():
        table.add_row(key, value)
    terminal.console.print(table)
    columns = {"parameters": terminal.count, "macs": terminal.count, "activations": terminal.mebibytes}
    stages = terminal.table("\nstage", "layers", "parameters", "MACs", "activations")
    for stage, costs in facts["profile"].items():
        stages.add_row(stage, str(costs["layers"]), *(show(costs[key]) for key, show in columns.items()))
    stages.add_row("all", "", *(show(facts[key]) for key, show in columns.items()))
    terminal.console.print(stages)
    if scaled:
        ways = terminal.table(f"\n{budget:g} times the MACs by", "layers", "image", "parameters", "MACs", "activations")
        for row in scaled:
            ways.add_row(
                row["way"], str(row["layers"]), str(row["side"]), *(show(row[key]) for key, show in columns.items())
            )
        terminal.console.print(ways)


def _plot_scaling(name: str, spec: Any, path: str) -> None:
    from keras_cnn import scaling
    from keras_cnn.insight import plots

    if not scaling.scales(spec):
        raise KerasCnnError(f"{name} has no rule for scaling, so there is nothing to plot.")
    rows = [row for budget in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0) for row in scaling.spend(spec, budget)]
    plots.scaling(rows, name, path)


@app.command()
def demo(
    out: Annotated[str, OUT] = "runs/demo",
    model: Annotated[str, MODEL] = "resnet18.tiny_in200",
    data: Annotated[str, DATA] = "digits",
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Watch a pretrained network learn handwritten digits: two minutes, no network."""
    terminal.notes.print(
        f"[bold]{model}[/bold] has never seen the classes of [bold]{data}[/bold]: "
        "first its head learns, then all of it."
    )
    results = _finetune(data, model, out, head_epochs=2, epochs=4, batch_size=64, before=True, as_json=as_json)
    _finish(results, out, as_json)


@app.command()
def finetune(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    epochs: Annotated[int, typer.Option(help="Epochs with the backbone unfrozen; 0 trains the head only.")] = 15,
    head_epochs: Annotated[int, typer.Option(help="Epochs of the head alone.")] = 5,
    batch_size: int = 32,
    rate: Annotated[float, typer.Option(help="Peak learning rate with the backbone unfrozen.")] = 5e-4,
    head_rate: Annotated[float, typer.Option(help="Peak learning rate of the head alone.")] = 3e-2,
    above: Annotated[str | None, typer.Option(help="Unfreeze only the stages above this one.")] = None,
    bn: Annotated[str | None, typer.Option(help="Batch norm of the unfrozen stages: frozen or train.")] = None,
    augment: Annotated[str, typer.Option(help="none, shift or light.")] = "light",
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    seed: int = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Teach a pretrained network your classes."""
    results = _finetune(
        data,
        model,
        out,
        weights=weights,
        size=size,
        augment=augment,
        skip_bad=skip_bad,
        seed=seed,
        epochs=epochs,
        head_epochs=head_epochs,
        batch_size=batch_size,
        rate=rate,
        head_rate=head_rate,
        above=above,
        bn=bn,
        as_json=as_json,
    )
    _finish(results, out, as_json)


@app.command()
def train(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    size: Annotated[int, SIZE] = 0,
    epochs: int = 10,
    batch_size: int = 128,
    rate: Annotated[float, typer.Option(help="Peak learning rate, for batches of 128.")] = 0.2,
    augment: Annotated[str, typer.Option(help="none, shift or light.")] = "light",
    aux: Annotated[bool, typer.Option("--aux", help="With Inception v3's auxiliary classifier.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write kernels as float16.")] = False,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    seed: int = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a network from random weights; the same command goes on after a crash."""
    from keras_cnn import catalog

    spec = catalog.get(model)
    config = catalog.default_config(model, spec)
    shape = _shape(spec.input_shape, size)
    # Small images are seen whole: a crop would lose what little there is.
    preprocess = dataclasses.replace(config.preprocess.at_size(shape[:2]), crop=1.0)
    loaded = _load(data, preprocess, shape, batch_size, augment, skip_bad, seed)
    kc = terminal.framework(seed)
    net = kc.build(model, input_shape=shape, classes=loaded.class_names, preprocess=preprocess, aux=aux or None)
    history = kc.train(
        net,
        loaded.train,
        loaded.val,
        epochs=epochs,
        rate=rate,
        out=out,
        half=half,
        verbose=terminal.verbosity(as_json),
        command=_command(),
        data=_data_name(data),
    )
    _finish(_results(net, loaded, history.history, out), out, as_json)


@app.command()
def lrfind(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the head learns, as in the first phase.")] = False,
    steps: Annotated[int, typer.Option(help="Batches to train on.")] = 100,
    batch_size: int = 32,
    picture: Annotated[str, typer.Option("--out", "-o", help="PNG file for the curve.")] = "lrfind.png",
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    seed: int = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Suggest a learning rate for fine-tuning, and draw the loss at every rate."""
    net, loaded = _pretrained(data, model, weights, size, "light", skip_bad, seed, batch_size)
    from keras_cnn import recipe, transfer
    from keras_cnn.insight import plots

    (transfer.freeze if frozen else transfer.unfreeze)(net)
    recipe.compile_(net, recipe.adamw(1e-3))
    found = transfer.lr_find(net, loaded.train, steps=steps)
    plots.learning_rates(found, picture)
    if as_json:
        return terminal.print_json({**dataclasses.asdict(found), "suggestion": found.suggestion})
    option = "--head-rate" if frozen else "--rate"
    terminal.console.print(f"suggestion: {option} {found.suggestion:.2g}; {picture} shows the curve.")


@app.command()
def evaluate(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    split: Annotated[
        str | None, typer.Option(help="train, val or test; default test, else val, else all images.")
    ] = None,
    size: Annotated[int, SIZE] = 0,
    batch_size: int = 128,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a network on labelled images."""
    from keras_cnn import evaluation

    net, config, _ = _model(model, weights, size)
    loaded = _load(data, config.preprocess, config.spec.input_shape, batch_size, "none", skip_bad, val_split=0.0)
    split = split or next(name for name in ("test", "val", "train") if name in loaded.sizes)
    if split not in loaded.sizes:
        raise BadData(f"{data} has no split {split!r}; it has {', '.join(loaded.sizes)}.")
    labels = evaluation.align(loaded.class_names, config.class_names, config.head.classes)
    result = evaluation.evaluate(net, terminal.progress(getattr(loaded, split), f"evaluating {split}"), labels)
    facts = {"split": split, "correct": result.correct, **result.metrics, "skipped": len(loaded.skipped)}
    if as_json:
        return terminal.print_json(facts)
    table = terminal.table(f"{model} on {data}", "")
    for key, value in facts.items():
        table.add_row(key, terminal.number(value))
    terminal.console.print(table)


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    top: Annotated[int, typer.Option(help="How many classes to show.")] = 5,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Name what images show."""
    import numpy as np

    from keras_cnn import evaluation
    from keras_cnn.data import load_image

    net, config, _ = _model(model, weights, size)
    batch = np.stack([load_image(image, config.preprocess) for image in images])
    names = config.class_names or tuple(f"class {i}" for i in range(config.head.classes))
    described = config.provenance.get("class_descriptions", {})
    answers = []
    for image, row in zip(images, evaluation.probabilities(net, batch), strict=True):
        best = np.argsort(-row)[:top]
        answers.append(
            {
                "image": image,
                "top": [
                    {"class": names[i], "name": described.get(names[i], names[i]), "probability": float(row[i])}
                    for i in best
                ],
            }
        )
    if as_json:
        return terminal.print_json(answers)
    for answer in answers:
        table = terminal.table(answer["image"], "probability")
        for guess in answer["top"]:
            table.add_row(guess["name"], f"{guess['probability']:.1%}")
        terminal.console.print(table)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="Tag, hf://owner/name[@revision], or weights directory.")],
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Fetch weights and check them, so that they are there without a network."""
    from keras_cnn.hub.pulling import fetch

    _show_files(dataclasses.asdict(fetch(name)), ("source", "commit", "path"), as_json)


@app.command()
def publish(
    directory: Annotated[Path, typer.Argument(help="Weights directory.")],
    repository: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub.")],
    private: Annotated[bool, typer.Option("--private", help="If it is made now, for yourself only.")] = False,
    tag: Annotated[str | None, typer.Option(help="Name of the commit, such as v1.")] = None,
    branch: Annotated[str, typer.Option(help="Branch; made if it is not there.")] = "main",
    message: Annotated[str | None, typer.Option(help="What changed.")] = None,
    license: Annotated[str | None, typer.Option(help="Licence of the weights, if config.json names none.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and tell; send nothing.")] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Upload a weights directory as one commit; HF_TOKEN is your token."""
    from keras_cnn.hub import publish as upload

    done = upload(
        directory,
        repository,
        private=private,
        tag=tag,
        branch=branch,
        message=message,
        license=license,
        dry_run=dry_run,
    )
    _show_files(dataclasses.asdict(done), ("repository", "branch", "commit", "tag", "url"), as_json)


# --- what the verbs share -------------------------------------------------------------------------------------------


def _model(name: str, weights: str | None, size: int) -> tuple[Any, Any, Any]:
    """(network, its configuration, the package) at a size."""
    from keras_cnn.hub import resolve

    spec = resolve(name, weights).config.spec
    kc = terminal.framework()
    from keras_cnn.hub.directory import config_of

    net = kc.build(name, weights=weights, input_shape=_shape(spec.input_shape, size))
    return net, config_of(net), kc


def _show_files(facts: dict[str, Any], keys: tuple[str, ...], as_json: bool) -> None:
    """Facts about a revision, then its files."""
    if as_json:
        return terminal.print_json({**facts, **({"path": str(facts["path"])} if "path" in facts else {})})
    for key in keys:
        if facts[key]:
            terminal.console.print(f"{key}: {facts[key]}", soft_wrap=True, highlight=False)
    table = terminal.table("file", "bytes", "")
    for name, record in facts["files"].items():
        table.add_row(name, f"{record['size']:,}", f"sha256 {record['sha256']}")
    terminal.console.print(table)


def _finetune(
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
    net, loaded = _pretrained(data, model, weights, size, augment, skip_bad, seed, batch_size)
    import keras_cnn as kc
    from keras_cnn import evaluation

    first = evaluation.evaluate(net, loaded.val).metrics["accuracy"] if before else None
    history = kc.fine_tune(
        net,
        loaded.train,
        loaded.val,
        out=out,
        verbose=terminal.verbosity(as_json),
        command=_command(),
        data=_data_name(data),
        **options,
    )
    return _results(net, loaded, history.history, out, before=first)


def _pretrained(
    data: str, model: str, weights: str | None, size: int, augment: str, skip_bad: bool, seed: int, batch_size: int
) -> tuple[Any, Any]:
    """(network with a head for the data's classes, data seen as the network's weights expect)."""
    from keras_cnn.hub import resolve

    found = resolve(model, weights)
    if found.load is None:
        terminal.notes.print(f"note: {model} has random weights; a tag or directory brings trained ones.")
    shape = _shape(found.config.spec.input_shape, size)
    loaded = _load(data, found.config.preprocess.at_size(shape[:2]), shape, batch_size, augment, skip_bad, seed)
    kc = terminal.framework(seed)
    return kc.build(model, weights=weights, input_shape=shape, classes=loaded.class_names), loaded


def _results(
    net: Any, loaded: Any, history: dict[str, list[float]], out: str, before: float | None = None
) -> dict[str, Any]:
    """Score the best epoch on the held-out images, draw the pictures, put the figures on the card."""
    from keras_cnn import evaluation
    from keras_cnn.hub import directory, save_pretrained
    from keras_cnn.insight import plots

    scores = {
        name: evaluation.evaluate(net, terminal.progress(batches, f"evaluating {name}"))
        for name, batches in (("val", loaded.val), ("test", loaded.test))
        if batches is not None
    }
    metrics = {f"{name} {key}": value for name, result in scores.items() for key, value in result.metrics.items()}
    # The run wrote these weights and their origin already; the card learns what they scored.
    written = directory.read(out).config.provenance
    save_pretrained(net, out, half=_stored_half(out), **{**written, "metrics": metrics})
    plots.learning_curves(history, Path(out) / "curves.png")
    last = scores.get("test") or scores.get("val")
    if last:
        plots.confusion_matrix(last.confusion(), loaded.class_names, Path(out) / "confusion.png")
    frozen = [
        v for v, phase in zip(history.get("val_accuracy", []), history.get("phase", []), strict=False) if phase == 1
    ]
    return {
        "before": before,
        "head_only": max(frozen) if frozen else None,
        **metrics,
        "images": loaded.sizes,
        "skipped": len(loaded.skipped),
        "out": out,
    }


def _finish(results: dict[str, Any], out: str, as_json: bool) -> None:
    if as_json:
        return terminal.print_json(results)
    titles = {
        "before": "before: a new head, untrained",
        "head_only": "the head trained, backbone frozen",
        "val accuracy": "after: the best epoch",
        "test accuracy": "after, on the test images",
    }
    table = terminal.table("", "accuracy")
    for key, title in titles.items():
        if results.get(key) is not None:
            table.add_row(title, f"{results[key]:.1%}")
    terminal.console.print(table)
    if results["skipped"]:
        terminal.console.print(f"unreadable images left out: {results['skipped']}")
    terminal.console.print(
        f"{out} holds the weights, a model card, curves.png and confusion.png: keras-cnn predict IMAGE --model {out}",
        soft_wrap=True,
    )


def _load(
    data: str,
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


def _shape(shape: tuple[int | None, int | None, int], size: int) -> tuple[int | None, int | None, int]:
    return (size, size, shape[-1]) if size else shape


def _data_name(data: str) -> str:
    return data if ":" in data or data == "digits" else Path(data).name


def _stored_half(out: str) -> bool:
    """Whether the run stored its kernels as float16."""
    from keras_cnn import checkpoint
    from keras_cnn.hub.directory import WEIGHTS as FILE

    return any(v.dtype == "float16" for v in checkpoint.load(Path(out) / FILE).values())


def _command() -> str:
    return " ".join(["keras-cnn", *(arg if arg and " " not in arg else repr(arg) for arg in sys.argv[1:])])


def _version(value: bool) -> None:
    if value:
        print(f"keras-cnn {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None: ...


def main(run: Callable[..., Any] = app) -> None:
    """Entry point of the command."""
    warnings.showwarning = terminal.show_warning
    try:
        run()
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = terminal.explain(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
