"""The model card: what a stranger must know before trusting weights.

Names and facts may come from strangers, too: `shown`, `prose` and `code_block` give them as text, whatever they hold.
The metadata is written by huggingface_hub's `ModelCardData` and `EvalResult`. Its `ModelCard` fills templates by
jinja2, one dependency more that escapes nothing for Markdown, so that the text is put together here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_cnn.checkpoints import commands, licences
from keras_cnn.models import shapes
from keras_cnn.models.config import Config, Preprocess
from keras_cnn.models.meaning import MEANINGS

# A card with this line is written anew whenever its directory is saved or published; without it, it is a person's.
GENERATED = "<!-- Written by keras_cnn. Remove this line to keep what you edit. -->"
TEXTS = {"source": "Weights from", "data": "Data", "limits": "Limits", "base_limits": "Limits of the base"}
REPORT = "report.html"  # of a run: it shows images, and is never published
CURVES = {"curves.png": "Learning curves"}  # of every run; the other pictures are the task's
SPLITS = {"train": "train", "val": "validation", "test": "test"}
# Data that the Hub may list: a name, configuration and version of TFDS; a data set of the Hub and its revision.
DATASET = re.compile(r"tfds:(?P<tfds>\w+)(?:/[^/:]+)?(?::[\d.*]+)?|hf://datasets/(?P<hub>\w[\w.-]*/\w[\w.-]*)(?:@\S+)?")
LONGEST = 200  # characters of a name in the metadata


def pictures() -> dict[str, str]:
    """Files that runs draw, of every task, and what a card calls them."""
    return {**CURVES, **{name: title for task in MEANINGS.values() for name, title in task.pictures.items()}}


def _metrics() -> dict[str, str]:
    """The Hub's names of a metric, by the last word of ours, as in "val loss"."""
    return {"loss": "loss", **{name: hub for task in MEANINGS.values() for name, hub in task.figures.items()}}


def card(config: Config, name: str, address: str | None = None, figures: Iterable[str] = ()) -> str:
    """README.md of a weights directory: metadata that the Hub reads, then facts and a snippet that runs.

    address: what `build` takes, such as hf://owner/name; by default a path. figures: files beside it to show.
    """
    pre, facts = config.preprocess, commands.public(config.provenance)
    rows, titles = shapes.tally(config), pictures()
    sections = [
        f"---\n{_metadata(config, name).to_yaml()}\n---\n",
        f"{GENERATED}\n",
        f"# {shown(name)}\n",
        f"`{config.name}`, {shapes.parameters(rows) / 1e6:.2f} M parameters, {_outputs(config)}. "
        f"A Keras 3 model of keras_cnn: {_input(config)} in, {_out(config)} out.\n",
        "## Use\n",
        _snippet(address or f"path/to/{name}", config),
        "## Preprocessing\n",
        _preprocessing(pre),
        *_facts("Results", facts.get("metrics")),
        *[f"![{titles[figure]}]({figure})\n" for figure in figures],
        *_base(facts),
        *[f"## {title}\n\n{prose(facts[key])}\n" for key, title in TEXTS.items() if facts.get(key)],
        *([f"## Made by\n\n{code_block(facts['command'])}\n"] if facts.get("command") else []),
        *([f"## Licence\n\n{_licence(facts['license'])}\n"] if facts.get("license") else []),
        *_classes(config),
    ]
    return "\n".join(sections)


# --- strangers' text --------------------------------------------------------------------------------------------------

JOINERS = "\u200c\u200d"  # invisible, and part of the spelling of Persian, Hindi and emoji
MARKUP = re.compile(r"[\\`*_\[\]|~$]")
# What Markdown of the Hub turns into a link: addresses and mail. What begins a block: a heading, list, quotation, rule.
LINKS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\bwww(?=\.)|(?<=[\w.+-])(?=@[\w-]+\.)")
BLOCK = re.compile(r"([#+\-=:]|\d+(?=[.)]))")


def visible(text: str) -> str:
    """A text in one line of visible characters: controls, line breaks and marks of direction as Python escapes them."""
    return "".join(c if c.isprintable() or c in JOINERS else c.encode("unicode_escape").decode() for c in text)


def shown(text: Any) -> str:
    """A text as Markdown of one line that shows it as it is, HTML included."""
    plain = visible(str(text).strip(" ")).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = LINKS.sub(lambda found: f"{found[0]}<!-- -->", plain)
    plain = MARKUP.sub(r"\\\g<0>", plain)
    found = BLOCK.match(plain)
    return f"{plain[: found.end() - 1]}&#{ord(found[0][-1])};{plain[found.end() :]}" if found else plain


def prose(text: Any) -> str:
    """The same of several lines, which stay lines."""
    return "  \n".join(filter(None, (shown(line.strip()) for line in str(text).splitlines())))


def code_block(text: str) -> str:
    """A text as code, between fences that it does not hold."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}\n{visible(text)}\n{fence}"


# --- parts ------------------------------------------------------------------------------------------------------------


def base_model(facts: Mapping[str, Any]) -> str | None:
    """The repository on a hub that a network was fine-tuned from, if it came from one, be it by its tag."""
    found = re.match(r"hf://(\w[\w.-]*/\w[\w.-]*)", facts.get("base_source") or facts.get("base") or "")
    return found[1] if found else None


def datasets(data: str) -> list[str]:
    """The id of a data set that has one; none for a folder, whose name would lead to someone else's data."""
    found = DATASET.fullmatch(data)
    return [found["hub"] or found["tfds"].lower()] if found else []


def _base(facts: Mapping[str, Any]) -> list[str]:
    if not facts.get("base"):
        return []
    licence = f", licence: {shown(facts['base_license'])}" if facts.get("base_license") else ""
    return [f"## Fine-tuned from\n\n{shown(facts['base'])}{licence}\n"]


def _licence(licence: str) -> str:
    """By its name on the Hub, or in quotation marks, since a stranger's word is not the name of a licence."""
    name = licences.name(licence)
    return name if name == licence.strip().lower() else f"{name}: “{prose(licence)}”"


def _input(config: Config) -> str:
    if config.backbone.SIDES == 1:
        return f"sequences (batch, time, {config.channels}) in the unit of the training data"
    return "raw RGB pixels (0..255)"


def _preprocessing(pre: Preprocess) -> str:
    if len(pre.size) == 1:
        return "Each channel is standardised inside the model, by statistics of the training data.\n"
    return (
        f"Evaluated at {'x'.join(map(str, pre.size))}: {pre.interpolation}, crop {pre.crop:g} ({pre.mode}); "
        f"mean {_numbers(pre.mean)}, std {_numbers(pre.std)}, applied inside the model.\n"
    )


def _snippet(address: str, config: Config) -> str:
    address = json.dumps(address) if address.isascii() else ascii(address)  # what Python reads back
    if config.backbone.SIDES == 1:
        return (
            "```python\nimport keras_cnn as kc\nimport numpy as np\n\n"
            f"model = kc.build({address})\n"
            f"sequences = np.zeros((1, {config.preprocess.size[0]}, {config.channels}))  # (batch, time, channels)\n"
            "print(np.asarray(model.predict(sequences)))\n```\n"
        )
    if config.head.EVERYWHERE:
        return (
            "```python\nimport keras_cnn as kc\n\n"
            f"predict = kc.predictor({address})\n"
            '[answer] = predict("photo.jpg")\n'
            'answer.picture().save("answer.png")\n```\n'
        )
    return (
        "```python\nimport keras_cnn as kc\nimport numpy as np\n\n"
        f"model = kc.build({address})\n"
        'image = kc.load_image("photo.jpg", kc.Preprocess.of(model))\n'
        "print(np.asarray(model.predict(image[None])))\n```\n"
    )


def _metadata(config: Config, name: str) -> Any:
    """What the Hub reads, as the client's own class writes it."""
    from huggingface_hub import ModelCardData

    facts = config.provenance
    data = visible(str(facts.get("data") or "not named"))
    results = list(_results(_task(config), facts.get("metrics") or {}, data))
    licence = facts.get("license")
    named: dict[str, Any] = (
        {"license_name": _slug(licence)} if licence and licences.name(licence) != licence.strip().lower() else {}
    )
    return ModelCardData(
        library_name="keras_cnn",
        pipeline_tag=_hub_task(config),
        tags=["keras", "keras_cnn", _task(config)],
        license=licences.name(licence) if licence else None,
        base_model=base_model(facts),
        datasets=datasets(data) or None,
        model_name=visible(name)[:LONGEST] if results else None,
        eval_results=results or None,
        **named,
    )


def _results(task: str, metrics: Mapping[str, Any], data: str) -> Iterable[Any]:
    """Metrics for the Hub's model-index; those that it has no name for stand in the text alone."""
    from huggingface_hub import EvalResult

    known = _metrics()
    for key, value in metrics.items():
        first, last = key.split()[0], key.split()[-1]
        if last in known and isinstance(value, float) and math.isfinite(value):
            yield EvalResult(
                task_type=task,
                dataset_type=(*datasets(data), _slug(data))[0],
                dataset_name=data[:LONGEST],
                dataset_split=SPLITS.get(first),
                metric_type=known[last],
                metric_name=visible(key)[:LONGEST],
                metric_value=value,
            )


def _hub_task(config: Config) -> str | None:
    """The Hub's name of what a network does; None where it has none."""
    if config.backbone.SIDES == 2:
        return config.head.meaning.hub
    return "time-series-forecasting" if getattr(config.head, "horizon", 0) else None


def _task(config: Config) -> str:
    """The same, or a name like it."""
    kind = "image" if config.backbone.SIDES == 2 else "time-series"
    return _hub_task(config) or f"{kind}-{config.head.task}"


def _out(config: Config) -> str:
    """What comes out, in words."""
    logits = config.head.meaning.activation and not config.head.activation
    return "scores" if logits else config.head.meaning.out


def _outputs(config: Config) -> str:
    """How many classes, targets or channels, in words."""
    head = config.head
    if head.meaning.direction:
        return f"{head.embedding} numbers"
    one, several = ("target", "targets") if head.meaning.in_units else ("class", "classes")
    one, several = ("channel", "channels") if head.meaning.labels is None else (one, several)
    ahead = f", {horizon} steps ahead" if (horizon := getattr(head, "horizon", 0)) else ""
    return f"{head.names} {one if head.names == 1 else several}{ahead}"


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:60].strip("-") or "data"


def _facts(title: str, facts: Mapping[str, Any] | None) -> list[str]:
    if not facts:
        return []
    rows = [
        f"| {shown(key)} | {f'{value:.4g}' if isinstance(value, float) else shown(value)} |"
        for key, value in facts.items()
    ]
    return [f"## {title}\n", "| | |\n|---|---|", *rows, ""]


def _classes(config: Config) -> list[str]:
    if not config.class_names:
        return []
    title = "Targets" if config.head.meaning.in_units else "Classes"
    return [f"## {title}\n", ", ".join(map(shown, config.class_names)) + "\n"]


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
