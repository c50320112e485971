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

from keras_cnn import __version__, runs, tables, terminal
from keras_cnn.bars import progress
from keras_cnn.errors import BadData, KerasCnnError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="Convolutional networks for Keras 3."
)

DATA = typer.Argument(
    help="A folder with one subfolder a class (or train/ val/ test/ above them), a .zip of one, tfds:NAME, or digits."
)
MODEL = typer.Option("--model", "-m", help="Architecture, tag, or weights directory.")
WEIGHTS = typer.Option(help="Checkpoint for the architecture: .safetensors, .pth, .th, .h5.")
SIZE = typer.Option(min=0, help="Side of the square images in pixels; 0 is what the weights say.")
OUT = typer.Option("--out", "-o", help="Directory for weights, card, pictures and log.")
BATCH = typer.Option(min=1)
AUGMENT = typer.Option(help="Of training images: none, shift, light, crop, medium or heavy.")
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
    terminal.console.print(tables.weights(rows) if pretrained else tables.networks(rows))


@app.command()
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
    from keras_cnn import scaling
    from keras_cnn.describe import info as describe
    from keras_cnn.hub import resolve

    facts, spec = describe(name, freeze), resolve(name).config.spec
    if budget <= 1:
        raise KerasCnnError(f"--budget {budget:g}: give a multiple of the network's own cost, above 1.")
    scaled = scaling.spend(spec, budget) if scaling.scales(spec) else []
    if plot:
        _plot_scaling(name, spec, plot)
    if as_json:
        return terminal.print_json({**facts, "scaled": scaled})
    terminal.console.print(tables.facts(facts), tables.stages(facts))
    if scaled:
        terminal.console.print(tables.ways(scaled, budget))


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
    results = runs.finetune(data, model, out, head_epochs=2, epochs=4, batch_size=64, before=True, as_json=as_json)
    _finish(results, out, as_json)


@app.command()
def finetune(
    context: typer.Context,
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    schedule: Annotated[str, typer.Option(help="What learns when: two-phase, gradual, all or head.")] = "two-phase",
    head_epochs: Annotated[int, typer.Option(help="Epochs of the head alone.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of what follows.")] = 15,
    head_rate: Annotated[float, typer.Option(help="Peak learning rate of the head alone.")] = 1e-2,
    rate: Annotated[float, typer.Option(help="Peak learning rate of what follows.")] = 5e-4,
    decay: Annotated[float, typer.Option(help="Rate of a stage as a share of that of the stage above.")] = 1.0,
    cycle: Annotated[str, typer.Option(help="Course of the rate in a phase: one-cycle or cosine.")] = "one-cycle",
    above: Annotated[str | None, typer.Option(help="Only stages above this one ever learn.")] = None,
    bn: Annotated[str | None, typer.Option(help="Batch norm of what learns: frozen, train or recalibrate.")] = None,
    probe: Annotated[bool, typer.Option(help="Measure the features first, and never end worse.")] = True,
    views: Annotated[int, typer.Option(help="Augmented views that the head alone sees; 0: the images.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="Pull of the weights towards zero.")] = 0.05,
    l2sp: Annotated[float, typer.Option(help="Pull of the backbone towards its pretrained weights instead.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Momentum of a running mean of the weights; 0 for none.")] = 0.0,
    patience: Annotated[int | None, typer.Option(help="End a phase after so many epochs without a new best.")] = None,
    balance: Annotated[bool, typer.Option("--balance", help="Weigh classes inversely to their images.")] = False,
    augment: Annotated[str, AUGMENT] = "light",
    batch_size: Annotated[int, BATCH] = 32,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    seed: int = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a run that was killed.")] = False,
    study: Annotated[bool, typer.Option("--study", help="Compare scratch and transfer at several sizes.")] = False,
    sizes: Annotated[str, typer.Option(help="With --study: training images a class; 0 for all.")] = "10,50,0",
    seeds: Annotated[int, typer.Option(min=1, help="With --study: how often each is repeated.")] = 3,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Teach a pretrained network your classes."""
    source = {"weights": weights, "size": size, "augment": augment, "skip_bad": skip_bad, "batch_size": batch_size}
    if study:
        _only_for_study(context)
        per_class = _numbers("--sizes", sizes)
        found = runs.study(
            data, model, out, **source, sizes=per_class, seeds=range(seeds), epochs=epochs, as_json=as_json
        )
        return terminal.print_json(found) if as_json else terminal.console.print(*tables.study(found, out))
    results = runs.finetune(
        data,
        model,
        out,
        **source,
        seed=seed,
        schedule=schedule,
        head_epochs=head_epochs,
        epochs=epochs,
        head_rate=head_rate,
        rate=rate,
        decay=decay,
        cycle=cycle,
        above=above,
        bn=bn,
        probe=probe,
        views=views,
        weight_decay=weight_decay,
        l2sp=l2sp,
        ema=ema,
        patience=patience,
        class_weight="balanced" if balance else None,
        resume=resume,
        as_json=as_json,
    )
    _finish(results, out, as_json)


OF_STUDY = {"context", "data", "model", "out", "weights", "size", "augment", "batch_size", "skip_bad", "epochs"}
OF_STUDY |= {"study", "sizes", "seeds", "as_json"}


def _only_for_study(context: typer.Context) -> None:
    """Refuse what a study would not heed: it compares schedules with their own options."""
    for name in context.params.keys() - OF_STUDY:
        if str(context.get_parameter_source(name)).endswith("COMMANDLINE"):
            option = "--" + name.replace("_", "-")
            raise KerasCnnError(f"--study compares schedules with options of their own: leave out {option}.")


def _numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise KerasCnnError(f"{option} {text}: give whole numbers with commas between them.") from None


@app.command()
def train(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    size: Annotated[int, SIZE] = 0,
    epochs: Annotated[int, typer.Option(min=1)] = 10,
    batch_size: Annotated[int, BATCH] = 128,
    rate: Annotated[float, typer.Option(min=0, help="Peak learning rate, for batches of 128.")] = 0.2,
    augment: Annotated[str, AUGMENT] = "light",
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
    shape = runs.shape_at(spec.input_shape, size)
    # Small images are seen whole: a crop would lose what little there is.
    preprocess = dataclasses.replace(config.preprocess.at_size(shape[:2]), crop=1.0)
    loaded = runs.load(data, preprocess, shape, batch_size, augment, skip_bad, seed)
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
        command=runs.command(),
        data=runs.data_name(data),
    )
    _finish(runs.score(net, loaded, history.history, out), out, as_json)


@app.command()
def lrfind(
    data: Annotated[str, DATA],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the head learns, as in the first phase.")] = False,
    steps: Annotated[int, typer.Option(min=2, help="Batches to train on.")] = 100,
    batch_size: Annotated[int, BATCH] = 32,
    picture: Annotated[str, typer.Option("--out", "-o", help="PNG file for the curve.")] = "lrfind.png",
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    seed: int = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Suggest a learning rate for fine-tuning, and draw the loss at every rate."""
    net, loaded = runs.pretrained(data, model, weights, size, "light", skip_bad, seed, batch_size)
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
    batch_size: Annotated[int, BATCH] = 128,
    skip_bad: Annotated[bool, SKIP_BAD] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Measure a network on labelled images."""
    from keras_cnn import evaluation
    from keras_cnn.data import index

    net, config, _ = runs.network(model, weights, size)
    found = index(data, val_split=0.0)
    names = [name for name, _ in found.items()]  # train, val, test
    split = split or names[-1]
    if split not in names:
        raise BadData(f"{data} has no split {split!r}; it has {', '.join(names)}.")
    told = (config.preprocess, config.spec.input_shape, batch_size, "none", skip_bad)
    loaded = runs.load(found, *told, decode=(split,))  # images of other splits are not looked at
    labels = evaluation.align(loaded.class_names, config.class_names, config.head.classes)
    result = evaluation.evaluate(net, progress(getattr(loaded, split), f"evaluating {split}"), labels)
    facts = {"split": split, "correct": result.correct, **result.metrics, "skipped": len(loaded.skipped)}
    if as_json:
        return terminal.print_json(facts)
    terminal.console.print(tables.pairs(f"{model} on {data}", facts))


@app.command()
def predict(
    images: Annotated[list[str], typer.Argument(help="Image files.")],
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Name what images show."""
    import numpy as np

    from keras_cnn import evaluation
    from keras_cnn.data import load_image

    net, config, _ = runs.network(model, weights, size)
    if not config.head.classes:
        raise BadData(f"{model} has no classifier: it gives features, not classes.")
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
        terminal.console.print(tables.guesses(answer))


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


# --- what they end with ----------------------------------------------------------------------------------------------


def _show_files(facts: dict[str, Any], keys: tuple[str, ...], as_json: bool) -> None:
    """Facts about a revision, then its files."""
    if as_json:
        return terminal.print_json({**facts, **({"path": str(facts["path"])} if "path" in facts else {})})
    for key in keys:
        if facts[key]:
            terminal.console.print(f"{key}: {facts[key]}", soft_wrap=True, highlight=False)
    terminal.console.print(tables.files(facts["files"]))


def _finish(results: dict[str, Any], out: str, as_json: bool) -> None:
    if as_json:
        return terminal.print_json(results)
    terminal.console.print(tables.accuracies(results))
    if results["skipped"]:
        terminal.console.print(f"unreadable images left out: {results['skipped']}")
    terminal.console.print(
        f"{out} holds the weights, a model card, curves.png and confusion.png: keras-cnn predict IMAGE --model {out}",
        soft_wrap=True,
    )


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
