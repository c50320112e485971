"""Commands that train."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from keras_cnn.checkpoints import commands
from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.options import (
    AUGMENT,
    BATCH,
    DATA,
    JSON,
    MODEL,
    OF_ALL,
    OUT,
    OVERWRITE,
    RESUME,
    SIZE,
    SKIP_BAD,
    WEIGHTS,
)
from keras_cnn.errors import KerasCnnError

DEMO = "runs/demo"  # where a demo replaces what an earlier one left


def demo(
    out: Annotated[str, OUT] = DEMO,
    model: Annotated[str, MODEL] = "resnet18.tiny_in200",
    data: Annotated[str, DATA] = "digits",
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Watch a pretrained network learn digits: two minutes, offline."""
    console.note(f"{model} has never seen the classes of {data}: first its head learns, then all of it.")
    results = runs.finetune(
        data,
        model,
        out,
        head_epochs=2,
        epochs=4,
        batch_size=64,
        before=True,
        resume=resume,
        overwrite=overwrite or (not resume and out == DEMO and runs.made_by("demo", out)),
        as_json=as_json,
    )
    _finish(results, out, as_json)


def fine_tune(
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
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
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
        with runs.stoppable(out):
            found = runs.study(
                data, model, out, **source, sizes=per_class, seeds=range(seeds), epochs=epochs, as_json=as_json
            )
        return console.print_json(found) if as_json else console.show(*tables.study(found, out))
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
        overwrite=overwrite,
        as_json=as_json,
    )
    _finish(results, out, as_json)


OF_STUDY = {"context", "data", "model", "out", "weights", "size", "augment", "batch_size", "skip_bad", "epochs"}
OF_STUDY |= {"study", "sizes", "seeds", "as_json", *OF_ALL}


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
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Train a network from random weights."""
    from keras_cnn import files
    from keras_cnn.models import registry
    from keras_cnn.training import state

    state.check(out, resume, overwrite)
    config = registry.get(model)
    shape = runs.shape_at(config.input_shape, size)
    # Small images are seen whole: a crop would lose what little there is.
    preprocess = dataclasses.replace(config.preprocess.at_size(shape[:2]), crop=1.0)
    loaded = runs.load(data, preprocess, shape, batch_size, augment, skip_bad, seed)
    kc = console.framework(seed)
    net = kc.build(model, input_shape=shape, classes=loaded.class_names, preprocess=loaded.preprocess, aux=aux or None)
    with runs.stoppable(out, resume), files.holding(out):
        history = kc.train(
            net,
            loaded,
            epochs=epochs,
            rate=rate,
            seed=seed,
            out=out,
            resume=resume,
            overwrite=overwrite,
            half=half,
            verbose=console.verbosity(as_json),
            provenance={"command": runs.command(), "data": commands.last_name(data)},
        )
        results = runs.score(net, loaded, history.history, out)
    _finish(results, out, as_json)


def lr_find(
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
    """Suggest a learning rate, and draw the loss at each."""
    net, loaded = runs.pretrained(data, model, weights, size, "light", skip_bad, seed, batch_size)
    from keras_cnn import transfer
    from keras_cnn.insight import plots
    from keras_cnn.training import lr_range, recipe

    (transfer.freeze if frozen else transfer.unfreeze)(net)
    recipe.compile_(net, recipe.adamw(1e-3))
    found = lr_range.lr_find(net, loaded.train, steps=steps)
    plots.learning_rates(found, picture)
    if as_json:
        return console.print_json({**dataclasses.asdict(found), "suggestion": found.suggestion})
    option = "--head-rate" if frozen else "--rate"
    console.show(f"suggestion: {option} {found.suggestion:.2g}; {console.quoted(picture)} shows the curve.")


def _finish(results: dict[str, Any], out: str, as_json: bool) -> None:
    if as_json:
        return console.print_json(results)
    console.show(tables.accuracies(results))
    if results["skipped"]:
        console.show(f"unreadable images left out: {results['skipped']}")
    place = console.quoted(out)
    has = f"{place} holds the weights, a model card, curves.png and confusion.png"
    console.show(f"{has}: keras-cnn predict IMAGE --model {place}")
