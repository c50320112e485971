"""Arguments and options that several commands share, and those that all have."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from keras_cnn.cli import console

DATA = typer.Argument(
    help="A folder with one subfolder a class (or train/ val/ test/ above them), a .zip of one, tfds:NAME, or digits."
)
MODEL = typer.Option("--model", "-m", help="Architecture, tag, or weights directory.")
WEIGHTS = typer.Option(help="Checkpoint for the architecture: .safetensors, .pth, .th, .h5.")
SIZE = typer.Option(min=0, help="Side of the square images in pixels; 0 is what the weights say.")
OUT = typer.Option("--out", "-o", help="Directory for weights, card, pictures and log.")
BATCH = typer.Option(min=1)
AUGMENT = typer.Option(help="Of training images: none, shift, light, crop, medium or heavy.")
SKIP_BAD = typer.Option("--skip-bad", help="Leave unreadable images out; each is named, and they are counted.")
RESUME = typer.Option("--resume", help="Go on with a run that was killed.")
OVERWRITE = typer.Option("--overwrite", help="Replace the run or weights that are in --out.")
JSON = typer.Option("--json", help="Print JSON.")
TIMEOUT = typer.Option(help="Seconds without progress before giving up; KERAS_CNN_TIMEOUT, else 60.")

OF_ALL = {
    "verbose": typer.Option("--verbose", "-v", callback=console.set_verbose, help="Show logs, and where errors arose."),
    "quiet": typer.Option("--quiet", "-q", callback=console.set_quiet, help="Show no progress."),
}


def with_options_of_all(verb: Callable[..., None]) -> Callable[..., None]:
    """The same command, with --verbose and --quiet; their callbacks do all there is to do."""

    @functools.wraps(verb)
    def command(*args: Any, **options: Any) -> None:
        verb(*args, **{name: value for name, value in options.items() if name not in OF_ALL})

    signature = inspect.signature(verb, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, option])
        for name, option in OF_ALL.items()
    ]
    signature = signature.replace(parameters=[*signature.parameters.values(), *more])
    command.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    vars(command)["__signature__"] = signature
    return command
