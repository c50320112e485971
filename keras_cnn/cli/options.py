"""Arguments and options that several commands share, and those that all have."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

# typer brings a click of its own
from typer.main import get_current_context  # pyright: ignore[reportPrivateImportUsage]

from keras_cnn.cli import console
from keras_cnn.training.options import Options

DATA = typer.Argument(
    help="A folder with one subfolder a class, or with images/ and masks/ (train/ val/ test/ above them); a .zip of "
    "one; a table (.csv, .tsv, .jsonl, .parquet); tfds:NAME; digits; of sequences an .npz or a table."
)
MODEL = typer.Option("--model", "-m", help="Architecture, tag, or weights directory.")
RUNNABLE = typer.Option("--model", "-m", help="Architecture, tag, weights directory, or exported file.")
WEIGHTS = typer.Option(help="Checkpoint for the architecture: .safetensors, .pth, .th, .h5.")
SIZE = typer.Option(min=0, help="Side of the square images in pixels; 0 is what the weights say.")
OUT = typer.Option("--out", "-o", help="Directory for weights, card, pictures and log.")
BATCH = typer.Option(min=1)
ENGINE = typer.Option(help="keras, tensorflow, openvino, onnx, litert; or auto, the fastest here.")
PRECISION = typer.Option(help="float32; of openvino also bfloat16.")
AUGMENT = typer.Option(help="Of training images: none, shift, light, mix, crop, medium or heavy.")
TRAINED_IN = typer.Option(
    "--precision",
    help="What is computed in: float32, mixed_bfloat16, mixed_float16; auto takes bfloat16 where this device has it "
    "faster. Weights are float32, and scored as such.",
)
SKIP_BAD = typer.Option("--skip-bad", help="Leave unreadable images out; each is named, and they are counted.")
RESUME = typer.Option("--resume", help="Go on with a run that was killed.")
OVERWRITE = typer.Option("--overwrite", help="Replace the run or weights that are in --out.")
OPTIONS = typer.Option("--options", help="TOML file with values for the options below, by their names.")
JSON = typer.Option("--json", help="Print JSON.")
VIEWS = typer.Option(
    help="mirror: the mean of the answers for an image and its mirror image; five: for its corners and its centre; "
    "ten: for these and their mirror images."
)
LOG = typer.Option(help="Tell each epoch to tensorboard, wandb or mlflow, or to several, with commas between them.")
RECIPE = typer.Option(help="A recipe by name, or a TOML file of one; the options below win over it.")
DISTRIBUTE = typer.Option(help="Train on several devices or machines: auto, none, mirrored or multiworker.")


def _be_patient(context: typer.Context, seconds: float | None) -> None:
    """Whatever this command asks of a hub is given up after so many seconds without progress."""
    if seconds is not None:
        from keras_cnn.hub import client

        context.with_resource(client.patience(seconds))


# Name: kind, default, option.
OF_ALL: dict[str, tuple[Any, Any, Any]] = {
    "verbose": (
        *(bool, False),
        typer.Option("--verbose", "-v", callback=console.set_verbose, help="Show logs, and where errors arose."),
    ),
    "quiet": (bool, False, typer.Option("--quiet", "-q", callback=console.set_quiet, help="Show no progress.")),
    "timeout": (
        *(float | None, None),
        typer.Option(callback=_be_patient, help="Seconds that a hub may make no progress; KERAS_CNN_TIMEOUT, else 60."),
    ),
}


def with_options_of_all(verb: Callable[..., None]) -> Callable[..., None]:
    """The same command, with the options of all; their callbacks do all there is to do."""

    def command(*args: Any, **options: Any) -> None:
        verb(*args, **{name: value for name, value in options.items() if name not in OF_ALL})

    return _like(verb, command, [_keyword(name, *told) for name, told in OF_ALL.items()])


def with_fields(kind: type[Options], *without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorates a command whose last parameter is `**chosen`: an option for each field of `kind`, but those without.

    Only those that were typed reach the command, so that a file of options may tell the others.
    """
    kinds = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.name not in without]
    more = [_keyword(field.name, kinds[field.name], field.default, _option(field)) for field in fields]

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        def command(*args: Any, **options: Any) -> None:
            context = get_current_context()
            typed = lambda name: str(context.get_parameter_source(name)).endswith("COMMANDLINE")  # noqa: E731
            unsaid = {field.name for field in fields if not typed(field.name)}
            verb(*args, **{name: value for name, value in options.items() if name not in unsaid})

        return _like(verb, command, more)

    return decorate


def with_data(verb: Callable[..., None]) -> Callable[..., None]:
    """The same command, whose parameter `data`, a dataclass, is an argument and an option for each other field."""
    kind = get_type_hints(verb)["data"]
    hints, fields = get_type_hints(kind, include_extras=True), dataclasses.fields(kind)
    named = {field.name: field.default for field in fields if field.name != "data"}

    def command(*args: Any, data: str, **options: Any) -> None:
        verb(*args, data=kind(data=data, **{name: options.pop(name) for name in named}), **options)

    only = inspect.Parameter.KEYWORD_ONLY
    more = [inspect.Parameter(n, only, default=default, annotation=hints[n]) for n, default in named.items()]
    return _like(verb, command, more, data=hints["data"])


def _option(field: dataclasses.Field[Any]) -> Any:
    told, bounds = field.metadata["told"], {"min": field.metadata["least"], "max": field.metadata["most"]}
    finite = {key: bound for key, bound in bounds.items() if math.isfinite(bound)}
    return typer.Option(help=f"{told[0].upper()}{told[1:]}.", **finite)


def _keyword(name: str, kind: Any, default: Any, option: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option])


def _like(verb: Any, command: Any, more: list[inspect.Parameter], **kinds: Any) -> Callable[..., None]:
    """A command with the name and the parameters of another, and more; its `**options` are no parameter.

    kinds: annotations of parameters in place of their own.
    """
    command = functools.wraps(verb)(command)
    own = [
        p.replace(annotation=kinds.get(p.name, p.annotation))
        for p in inspect.signature(verb, eval_str=True).parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *more)}
    vars(command)["__signature__"] = inspect.Signature([*own, *more])
    return command
