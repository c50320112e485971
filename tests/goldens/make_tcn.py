"""Outputs of keras-tcn on weights seeded by our names, for test_tcn.py.

    python tests/goldens/make_tcn.py     where keras-tcn is installed beside this package's tests

Writes tcn.json: for each configuration keras-tcn's version and what its layer gives for a seeded sequence, every step.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import keras
import numpy as np
import tcn

sys.path.insert(0, str(Path(__file__).parents[1]))
import seeded
from test_tcn import REFERENCES, backbone, sequence

from keras_cnn.models import shapes

RULES = [
    (r"stage(\d+)_conv(\d)", lambda s, n: f"residual_block_{s - 1}/conv1D_{n - 1}"),
    (r"stage(\d+)_shortcut_conv", lambda s: f"residual_block_{s - 1}/matching_conv1D"),
]


def theirs(layer: str, norm: str) -> str:
    """Their name of one of our layers; norms are numbered through, the first one without a number."""
    if found := re.fullmatch(r"stage(\d+)_norm(\d)", layer):
        number = 2 * (int(found[1]) - 1) + int(found[2]) - 1
        return f"residual_block_{int(found[1]) - 1}/{norm}_normalization" + (f"_{number}" if number else "")
    return next(name(*map(int, found.groups())) for pattern, name in RULES if (found := re.fullmatch(pattern, layer)))


def outputs(reference: dict) -> np.ndarray:
    keras.backend.clear_session()
    x = sequence()
    steps = keras.Input(x.shape[1:])
    model = keras.Model(steps, tcn.TCN(return_sequences=True, **reference)(steps))
    ours = backbone(reference)
    g = shapes.Tally(ours)
    dict(ours.features(g, shapes.Shape((None, *x.shape[1:]))))
    values = seeded.arrays({k: v for k, v in shapes.variables(g.rows).items() if not k.startswith("stem")})
    named = {f"{theirs(k.split('/')[0], ours.norm)}/{k.split('/')[1]}": value for k, value in values.items()}
    for weight in model.weights:
        key = weight.path.partition("/")[2]
        if ours.norm == "batch" and key.endswith("/bias") and key not in named:
            weight.assign(np.zeros(weight.shape))  # ours has none before batch norm, which subtracts it again
        else:
            weight.assign(named.pop(key))
    assert not named, list(named)
    return np.asarray(model(x, training=False))


if __name__ == "__main__":
    found = {name: np.round(outputs(kw).astype("float64"), 7).tolist() for name, kw in REFERENCES.items()}
    told = {"keras-tcn": tcn.__version__, "outputs": found}
    Path(__file__).with_name("tcn.json").write_text(json.dumps(told) + "\n", "utf-8")
