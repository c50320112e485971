"""The model card: what a stranger must know before trusting weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from keras_cnn import tally
from keras_cnn.spec import Config

# A card with this line is written anew whenever its directory is saved or published; without it, it is a person's.
GENERATED = "<!-- Written by keras_cnn. Remove this line to keep what you edit. -->"
TEXTS = {"source": "Weights from", "base": "Fine-tuned from", "data": "Data", "command": "Made by", "limits": "Limits"}
FIGURES = {"curves.png": "Learning curves", "confusion.png": "Confusion matrix"}
# The Hub's names of a metric, by the last word of ours ("val accuracy"), and the first as a split.
METRICS = {"accuracy": "accuracy", "loss": "loss", "f1": "f1", "precision": "precision", "recall": "recall"}
SPLITS = {"train": "train", "val": "validation", "test": "test"}
# Data that the Hub may list: a name, configuration and version of TFDS; a data set of the Hub and its revision.
DATASET = re.compile(r"tfds:(?P<tfds>\w+)(?:/[^/:]+)?(?::[\d.*]+)?|hf://datasets/(?P<hub>[\w.-]+/[\w.-]+)(?:@\S+)?")
# Of a command line: its words, as `runs.command` quotes them; of a word, the folders before a name, behind an option.
WORD = re.compile(r"""(['"]).*?\1(?!\S)|\S+""")
FOLDERS = re.compile(r"""(['"]?(?:--?[\w-]+=|-\w(?=/))?)(?:.*/|(?:[A-Za-z]:|\\)\\(?:.*\\)?)(?=[^\\/'"])""")


def card(config: Config, name: str, address: str | None = None, figures: Iterable[str] = ()) -> str:
    """README.md of a weights directory: metadata that the Hub reads, then facts and a snippet that runs.

    address: what `build` takes, such as hf://owner/name; by default a path. figures: files beside it to show.
    """
    pre, facts = config.preprocess, dict(config.provenance)
    if facts.get("command"):
        facts["command"] = without_folders(str(facts["command"]))
    rows = tally.tally(config)
    height, width = pre.size
    sections = [
        f"---\n{_metadata(config, name).to_yaml()}\n---\n",
        f"{GENERATED}\n",
        f"# {name}\n",
        f"`{config.architecture}`, {tally.parameters(rows) / 1e6:.2f} M parameters, {config.head.classes} classes. "
        "A Keras 3 model of keras_cnn: raw RGB pixels (0..255) in, "
        f"{'probabilities' if config.head.activation else 'scores'} out.\n",
        "## Use\n",
        _snippet(address or f"path/to/{name}"),
        "## Preprocessing\n",
        f"Evaluated at {height}x{width}: {pre.interpolation}, crop {pre.crop:g} ({pre.mode}); "
        f"mean {_numbers(pre.mean)}, std {_numbers(pre.std)}, applied inside the model.\n",
        *_facts("Results", facts.get("metrics")),
        *[f"![{FIGURES[figure]}]({figure})\n" for figure in figures],
        *[f"## {title}\n\n{facts[key]}\n" for key, title in TEXTS.items() if facts.get(key)],
        *([f"## Licence\n\n{facts['license']}\n"] if facts.get("license") else []),
        *_classes(config),
    ]
    return "\n".join(sections)


def base_model(base: str) -> str | None:
    """The repository on a hub that a network was fine-tuned from, if it came from one."""
    found = re.match(r"hf://([^/@\s]+/[^/@\s]+)", base)
    return found[1] if found else None


def datasets(data: str) -> list[str]:
    """The id of a data set that has one; none for a folder, whose name would lead to someone else's data."""
    found = DATASET.fullmatch(data)
    return [found["hub"] or found["tfds"].lower()] if found else []


def without_folders(command: str) -> str:
    """A command with every path by its last part: folders tell of the machine that it ran on, not of the network."""

    def shown(word: re.Match[str]) -> str:
        folders = FOLDERS.match(word[0])
        address = "://" in word[0] or "tfds:" in word[0]
        return folders[1] + word[0][folders.end() :] if folders and not address else word[0]

    return WORD.sub(shown, command)


def _snippet(address: str) -> str:
    return (
        "```python\nimport keras_cnn as kc\nimport numpy as np\n\n"
        f'model = kc.build("{address}")\n'
        'image = kc.load_image("photo.jpg", kc.Preprocess.of(model))\n'
        "print(np.asarray(model.predict(image[None])))\n```\n"
    )


def _metadata(config: Config, name: str) -> Any:
    """What the Hub reads, as the client's own class writes it."""
    from huggingface_hub import ModelCardData

    facts = config.provenance
    data = str(facts.get("data") or "not named")
    results = list(_results(facts.get("metrics") or {}, data))
    return ModelCardData(
        library_name="keras_cnn",
        pipeline_tag="image-classification",
        tags=["keras", "keras_cnn", "image-classification"],
        license=facts.get("license") or None,
        base_model=base_model(str(facts.get("base") or "")),
        datasets=datasets(data) or None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _results(metrics: Mapping[str, Any], data: str) -> Iterable[Any]:
    """Metrics for the Hub's model-index; those that it has no name for stand in the text alone."""
    from huggingface_hub import EvalResult

    slug = re.sub(r"\W+", "-", data).strip("-").lower() or "data"
    for key, value in metrics.items():
        first, last = key.split()[0], key.split()[-1]
        if last in METRICS and isinstance(value, float):
            yield EvalResult(
                task_type="image-classification",
                dataset_type=(*datasets(data), slug)[0],
                dataset_name=data,
                dataset_split=SPLITS.get(first),
                metric_type=METRICS[last],
                metric_name=key,
                metric_value=value,
            )


def _facts(title: str, facts: Mapping[str, Any] | None) -> list[str]:
    if not facts:
        return []
    rows = [
        f"| {key} | {value:.4g} |" if isinstance(value, float) else f"| {key} | {value} |"
        for key, value in facts.items()
    ]
    return [f"## {title}\n", "| | |\n|---|---|", *rows, ""]


def _classes(config: Config) -> list[str]:
    if not config.class_names:
        return []
    return ["## Classes\n", ", ".join(config.class_names) + "\n"]


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
