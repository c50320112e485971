"""Commands that train."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from keras_cnn.checkpoints import directory
from keras_cnn.cli import console, runs, tables
from keras_cnn.cli.datasets import TrainingData
from keras_cnn.cli.options import (
    BATCH,
    DATA,
    DISTRIBUTE,
    JSON,
    LOG,
    MODEL,
    OF_ALL,
    OPTIONS,
    OUT,
    OVERWRITE,
    RECIPE,
    RESUME,
    SIZE,
    TRAINED_IN,
    WEIGHTS,
    with_data,
    with_fields,
)
from keras_cnn.errors import BadSpec, KerasCnnError
from keras_cnn.models.fields import one_of
from keras_cnn.training.options import PRECISIONS, FineTuneOptions, TrainOptions, logs_of

DEMO = "runs/demo"  # where a demo replaces what an earlier one left


def demo(
    out: Annotated[str, OUT] = DEMO,
    model: Annotated[str, MODEL] = "resnet18_half.tiny_in200",
    data: Annotated[str, DATA] = "digits",
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Watch a pretrained network learn digits: two minutes, offline."""
    console.note(f"{model} has never seen the classes of {data}: first its head learns, then all of it.")
    results = runs.finetune(
        TrainingData(data=data),
        model,
        out,
        FineTuneOptions(head_epochs=2, epochs=4, batch_size=64),
        before=True,
        resume=resume,
        overwrite=overwrite or (not resume and out == DEMO and runs.made_by("demo", out)),
        as_json=as_json,
    )
    _finish(results, out, as_json)


@with_data
@with_fields(FineTuneOptions, "class_weight")
def fine_tune(
    context: typer.Context,
    data: TrainingData,
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    precision: Annotated[str, TRAINED_IN] = "auto",
    balance: Annotated[bool, typer.Option("--balance", help="Weigh classes inversely to their images.")] = False,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    study: Annotated[bool, typer.Option("--study", help="Compare scratch and transfer at several sizes.")] = False,
    sizes: Annotated[str, typer.Option(help="With --study: training images a class; 0 for all.")] = "10,50,0",
    seeds: Annotated[int, typer.Option(min=1, help="With --study: how often each is repeated.")] = 3,
    as_json: Annotated[bool, JSON] = False,
    distribute: Annotated[str, DISTRIBUTE] = "none",
    log: Annotated[str | None, LOG] = None,
    options: Annotated[str | None, OPTIONS] = None,
    **chosen: Any,
) -> None:
    """Teach a pretrained network your classes."""
    one_of("precision", precision, ("auto", *PRECISIONS))
    source: dict[str, Any] = {"weights": weights, "size": size, "precision": precision}
    chosen |= {"class_weight": "balanced"} if balance else {}
    logs_of(log, out)
    told = FineTuneOptions.of(options, "fine_tune", **chosen)
    if study:
        _only_for_study(context)
        per_class = _numbers("--sizes", sizes)
        with runs.stoppable(out):
            found = runs.study(
                data,
                model,
                out,
                **source,
                batch_size=told.batch_size,
                sizes=per_class,
                seeds=range(seeds),
                epochs=told.epochs,
                as_json=as_json,
            )
        return console.print_json(found) if as_json else console.show(*tables.study(found, out, _format(found)))
    with runs.distributed(distribute) as place:
        goes_on: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "chief": place.chief, "log": log}
        results = runs.finetune(data, model, out, told, **source, **goes_on, as_json=as_json)
        place.meet()  # while the chief scores, no other may be gone
    if results:
        _finish(results, out, as_json)


OF_STUDY = {"context", "model", "out", "weights", "size", "precision", "batch_size", "epochs"}
OF_STUDY |= {"study", "sizes", "seeds", "as_json", *OF_ALL, *TrainingData.__dataclass_fields__}


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


@with_data
@with_fields(TrainOptions)
def train(
    context: typer.Context,
    data: TrainingData,
    model: Annotated[str, MODEL],
    out: Annotated[str, OUT],
    size: Annotated[int, SIZE] = 0,
    precision: Annotated[str | None, TRAINED_IN] = None,
    aux: Annotated[bool, typer.Option("--aux", help="With Inception v3's auxiliary classifier.")] = False,
    half: Annotated[bool, typer.Option("--half", help="Write kernels as float16.")] = False,
    resume: Annotated[bool, RESUME] = False,
    overwrite: Annotated[bool, OVERWRITE] = False,
    as_json: Annotated[bool, JSON] = False,
    recipe: Annotated[str | None, RECIPE] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="A trained network to learn from as well.")] = None,
    distribute: Annotated[str, DISTRIBUTE] = "none",
    log: Annotated[str | None, LOG] = None,
    options: Annotated[str | None, OPTIONS] = None,
    **chosen: Any,
) -> None:
    """Train a network from random weights."""
    from keras_cnn.models import registry
    from keras_cnn.training import state

    logs_of(log, out)
    if recipe and options:
        raise BadSpec("--recipe and --options both tell the options: give one of them.")
    with runs.distributed(distribute) as place:
        asked, build = TrainOptions.of(options, "train", **chosen), {}
        if recipe:
            asked, data, build = _of_recipe(context, recipe, data, chosen)
        precision = precision or build.pop("precision", None) or "auto"
        one_of("precision", precision, ("auto", *PRECISIONS))
        size = size or build.pop("input_shape", (0,))[0]
        if place.chief:
            state.check(out, resume, overwrite)
        config = runs.sized(registry.get(model), size)
        # Small images are seen whole: a crop would lose what little there is.
        config = config.with_(preprocess=dataclasses.replace(config.preprocess, crop=1.0))
        build = {"aux": aux or None, **build, "precision": precision}
        learner = runs.learner(data, config, asked.batch_size, asked.seed, model, **build)
        net = learner.network
        import keras_cnn as kc

        goes_on: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "chief": place.chief, "log": log}
        with runs.of_a_run(out, data, **goes_on, as_json=as_json) as told:
            teaches = kc.build(teacher) if teacher else None
            kc.train(net, *learner.examples, teacher=teaches, options=asked, half=half, **told)
            results = runs.score(out, learner.data) if place.chief else None
        place.meet()  # while the chief scores, no other may be gone
    if results:
        _finish(results, out, as_json)


def _of_recipe(
    context: typer.Context, name: str, data: TrainingData, chosen: dict[str, Any]
) -> tuple[TrainOptions, TrainingData, dict[str, Any]]:
    """(options of `train`, data, options of `build` and precision) as a recipe has them; what was typed wins."""
    from keras_cnn.training.recipe import Recipe

    recipe = Recipe.of(name)
    of_data = {key: value for key, value in recipe.data.items() if key != "augment"}
    meant, asked, rate = of_data.get("batch_size"), chosen.get("batch_size"), recipe.train.learning_rate
    if meant and asked and rate and meant != asked and "learning_rate" not in chosen:
        console.note(
            f"note: the learning rate of {name}, {rate:g}, is for batches of {meant}; of {asked}, take about "
            f"--learning-rate {rate * asked / meant:.2g}."
        )
    if "augment" in recipe.data and not str(context.get_parameter_source("augment")).endswith("COMMANDLINE"):
        data = dataclasses.replace(data, augment=str(recipe.data["augment"]))
    build = {**recipe.build, "precision": recipe.precision}
    return TrainOptions.of(recipe.train, "train", **{**of_data, **chosen}), data, build


@with_data
def lr_find(
    data: TrainingData,
    model: Annotated[str, MODEL],
    weights: Annotated[str | None, WEIGHTS] = None,
    size: Annotated[int, SIZE] = 0,
    frozen: Annotated[bool, typer.Option("--frozen", help="Only the head learns, as in the first phase.")] = False,
    steps: Annotated[int, typer.Option(min=2, help="Batches to train on.")] = 100,
    batch_size: Annotated[int, BATCH] = 32,
    picture: Annotated[str, typer.Option("--out", "-o", help="PNG file for the curve.")] = "lrfind.png",
    seed: int = 0,
    as_json: Annotated[bool, JSON] = False,
) -> None:
    """Suggest a learning rate, and draw the loss at each."""
    learner = runs.pretrained(data, model, weights, size, seed, batch_size)
    net, loaded = learner.network, learner.data
    from keras_cnn import transfer
    from keras_cnn.data.training_set import training_set
    from keras_cnn.insight import plots
    from keras_cnn.training import adapting, loop, lr_range, optimizers

    adapting.adapt(net, training_set(*learner.examples))
    (transfer.freeze if frozen else transfer.unfreeze)(net)
    loop.compile_(net, optimizers.adamw(1e-3))
    found = lr_range.lr_find(net, loaded.train, steps=steps, batch_size=batch_size)
    plots.learning_rates(found, picture)
    if as_json:
        return console.print_json({**dataclasses.asdict(found), "suggestion": found.suggestion})
    option = "--head-learning-rate" if frozen else "--learning-rate"
    console.show(f"suggestion: {option} {found.suggestion:.2g}; {console.quoted(picture)} shows the curve.")


def _format(found: dict[str, Any]) -> str:
    """How people read the figure of the task."""
    from keras_cnn.tasks import TASKS

    return TASKS[found["task"]].format


def _finish(results: dict[str, Any], out: str, as_json: bool) -> None:
    if as_json:
        return console.print_json(results)
    console.show(tables.gained(results, _format(results)))
    if results["skipped"]:
        console.show(f"unreadable images left out: {results['skipped']}")
    place = console.quoted(out)
    *some, last = "the weights", "a model card", *results["pictures"], results["report"]
    of_images = directory.read(out).config.backbone.SIDES == 2
    use = f": keras-cnn predict IMAGE --model {place}" if of_images else ""
    console.show(f"{place} holds {', '.join(some)} and {last}{use}")
