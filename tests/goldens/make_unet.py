"""Write the goldens of the U-Net: logits and parameter counts of segmentation_models.pytorch.

Run it where torch and segmentation_models_pytorch are installed, from the root of the repository:

    python tests/goldens/make_unet.py

Weights are seeded by name and pushed through our rename table; Keras is not needed and not used. The file holds every
4th row and every 3rd column of the logits, which meet every phase of the 32 pixels of the deepest map.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import segmentation_models_pytorch as smp
import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import seeded  # noqa: E402

from keras_cnn.checkpoints.convert import smp as table  # noqa: E402
from keras_cnn.checkpoints.convert.rename import to_theirs  # noqa: E402
from keras_cnn.models import registry, shapes  # noqa: E402
from keras_cnn.models.decoders import UNet  # noqa: E402

CLASSES = 3
NETWORKS = {"resnet18": (64, 75), "resnet50": (64, 33)}  # an even and an odd size of each


def golden(name: str, sizes: tuple[int, ...]) -> dict:
    config = registry.get(name).with_(head=UNet(classes=CLASSES, activation=None))
    model = smp.Unet(name, encoder_weights=None, classes=CLASSES).eval()
    values = seeded.arrays(shapes.variables(shapes.tally(config)))
    state = model.state_dict()
    theirs = to_theirs(values, config.backbone, table.FORMAT)
    assert theirs.keys() == {key for key in state if not key.endswith("num_batches_tracked")}
    model.load_state_dict({key: torch.tensor(np.ascontiguousarray(v)) for key, v in theirs.items()}, strict=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.preprocess.mean, config.preprocess.std))
    logits = {}
    for size in sizes:
        image = seeded.image(size)[:, :, : size - 8]  # no square
        x = torch.tensor(image).permute(0, 3, 1, 2) / 255.0
        with torch.no_grad():
            scores = model((x - mean) / std)[0].permute(1, 2, 0).numpy()
        logits[str(size)] = np.round(scores[::4, ::3].astype("float64"), 6).tolist()
    return {"parameters": sum(p.numel() for p in model.parameters()), "logits": logits}


def main() -> None:
    goldens = {name: golden(name, sizes) for name, sizes in NETWORKS.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items())
    Path(__file__).with_name("unet.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
