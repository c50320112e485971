"""The model card: what a stranger must know before trusting weights."""

from __future__ import annotations

from keras_cnn import tally
from keras_cnn.spec import Config


def card(config: Config, name: str) -> str:
    """README.md of a weights directory: metadata that the Hub reads, then facts and a snippet that runs."""
    pre, facts = config.preprocess, config.provenance
    rows = tally.tally(config)
    height, width = pre.size
    sections = [
        _metadata(config),
        f"# {name}\n",
        f"`{config.architecture}`, {tally.parameters(rows) / 1e6:.2f} M parameters, {config.head.classes} classes. "
        "A Keras 3 model of [keras_cnn](https://pypi.org/project/keras-cnn/): raw RGB pixels (0..255) in, "
        f"{'probabilities' if config.head.activation else 'scores'} out.\n",
        "## Use\n",
        f'```python\nimport keras_cnn as kc\n\nmodel = kc.build("path/to/{name}")\n```\n',
        "## Preprocessing\n",
        f"Evaluated at {height}x{width}: {pre.interpolation}, crop {pre.crop:g} ({pre.mode}); "
        f"mean {_numbers(pre.mean)}, std {_numbers(pre.std)}, applied inside the model.\n",
        *_facts("Results", facts.get("metrics")),
        *[f"## {title}\n\n{facts[key]}\n" for key, title in TEXTS.items() if facts.get(key)],
        *_classes(config),
    ]
    return "\n".join(sections)


TEXTS = {"source": "Weights from", "base": "Fine-tuned from", "data": "Data", "command": "Made by", "limits": "Limits"}


def _metadata(config: Config) -> str:
    lines = [
        "---",
        "library_name: keras_cnn",
        "pipeline_tag: image-classification",
        "tags: [keras, keras_cnn, image-classification]",
        *([f"license: {config.provenance['license']}"] if config.provenance.get("license") else []),
        "---\n",
    ]
    return "\n".join(lines)


def _facts(title: str, facts: dict | None) -> list[str]:
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
