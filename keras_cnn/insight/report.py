"""The report of a run as one self-contained page of HTML: scores, curves, worst mistakes with their pictures."""

from __future__ import annotations

import base64
import html
import io
import math
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from keras_cnn import files, runtime
from keras_cnn.checkpoints.card import REPORT
from keras_cnn.terminal import plain

SIDE = 160  # pixels of the longer side of a small picture
PACKAGES = ("keras_cnn", "keras", "tensorflow", "jax", "torch", "numpy")
STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; }
td, th { border-bottom: 1px solid var(--line); padding: .3rem .8rem .3rem 0; text-align: left; }
td.number { font-variant-numeric: tabular-nums; text-align: right; }
img { background: white; max-width: 100%; }
figure { display: inline-block; margin: 0 1rem 1rem 0; vertical-align: top; max-width: 12rem; }
figure img { image-rendering: pixelated; min-width: 6rem; }
pre { overflow-x: auto; }
"""


def write(
    folder: str | Path,
    *,
    title: str,
    scores: Mapping[str, Any],
    pictures: Sequence[str] = (),
    mistakes: Iterable[tuple[str, np.ndarray | None]] = (),
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write `report.html` into the folder of a run; nothing in it is fetched from elsewhere.

    scores: figures by name. pictures: names of PNG files in the folder. mistakes: what is said of an image, and the
    image, uint8 (height, width, channels), None where it is not at hand. facts: of the run, such as its command.
    All text is shown as text, whatever it holds.
    """
    folder = Path(folder)
    about = {**(facts or {}), **environment()}
    parts = [
        f"<h1>{_text(title)}</h1>",
        _table(scores),
        *(f'<p><img alt="{_text(name)}" src="{_inline((folder / name).read_bytes())}"></p>' for name in pictures),
    ]
    if shown := [_figure(told, image) for told, image in mistakes]:
        parts += ["<h2>Worst mistakes, the surest first</h2>", *shown]
    parts += ["<h2>How it was made</h2>", _table(about)]
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    files.write_text(folder / REPORT, page)
    return folder / REPORT


def environment() -> dict[str, str]:
    """What the run was computed with."""
    known, found = runtime.instructions(), {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {number}" for name, number in found.items()),
        "machine": f"{platform.system()} {platform.machine()}, {runtime.cores()} cores",
        "instructions": next((name for name in runtime.WIDTHS if name in known), "not known"),
        "GPUs": str(len(runtime.gpus())),
    }


def _table(rows: Mapping[str, Any]) -> str:
    def cell(value: Any) -> str:
        if isinstance(value, float):
            return f'<td class="number">{value:.4g}</td>' if math.isfinite(value) else "<td>not a number</td>"
        return f"<td>{_text(value)}</td>"

    lines = (f"<tr><th>{_text(name)}</th>{cell(value)}</tr>" for name, value in rows.items() if value is not None)
    return f"<table>{''.join(lines)}</table>"


def _figure(told: str, image: np.ndarray | None) -> str:
    picture = ""
    if image is not None:
        pixels = image[..., 0] if image.shape[-1] == 1 else image[..., :3]
        small, held = Image.fromarray(np.ascontiguousarray(pixels)), io.BytesIO()
        small.thumbnail((SIDE, SIDE))
        small.save(held, "PNG")
        picture = f'<img alt="" src="{_inline(held.getvalue())}">'
    return f"<figure>{picture}<figcaption>{_text(told)}</figcaption></figure>"


def _text(told: object) -> str:
    """Foreign text as text: no element, and nothing that hides or turns what stands around it."""
    return html.escape(plain(told))


def _inline(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
