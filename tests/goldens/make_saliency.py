"""Write the goldens of Grad-CAM, Grad-CAM++ and Score-CAM: heats of pytorch-grad-cam.

Run it where torch, timm and grad-cam are installed, from the root of the repository:

    python tests/goldens/make_saliency.py

Weights are seeded by name and pushed through our rename table. The file holds every 5th row and 7th column of the heat
before it is clipped and scaled, brought to the image's size by torch. pytorch-grad-cam adds 1e-6 below the fraction of
Grad-CAM++, which small gradients feel: the classifier's kernel is made larger there. Its Score-CAM enlarges masks with
their corners aligned, ours by half-pixel centres, as all else here: it is given that.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import timm
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, ScoreCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import seeded  # noqa: E402

from keras_cnn.checkpoints.convert import timm as table  # noqa: E402
from keras_cnn.checkpoints.convert.rename import to_theirs  # noqa: E402
from keras_cnn.models import naming, registry, shapes  # noqa: E402

NAME, SIZE, CLASSES, TARGET = "resnet18", 64, 10, 3
METHODS = {"grad-cam": (GradCAM, 1), "grad-cam++": (GradCAMPlusPlus, 100), "score-cam": (ScoreCAM, 1)}
LAYERS = {"stage3_block2_act": "layer3", "stage4_block2_act": "layer4"}

torch.nn.UpsamplingBilinear2d = partial(torch.nn.Upsample, mode="bilinear", align_corners=False)


def heat(method: str, layer: str) -> list[list[float]]:
    (kind, gain), config = METHODS[method], registry.get(NAME).with_(head=seeded.head(NAME, CLASSES))
    values = seeded.arrays(shapes.variables(shapes.tally(config)))
    values[naming.LOGITS] = gain * values[naming.LOGITS]
    model = timm.create_model(NAME, num_classes=CLASSES).eval()
    theirs = to_theirs(values, config.backbone, table.FORMAT)
    model.load_state_dict({key: torch.tensor(np.ascontiguousarray(v)) for key, v in theirs.items()}, strict=False)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.preprocess.mean, config.preprocess.std))
    x = (torch.tensor(seeded.image(SIZE)).permute(0, 3, 1, 2) / 255.0 - mean) / std
    cam, kept = kind(model, [getattr(model, layer)]), []
    own = cam.get_cam_image
    cam.get_cam_image = lambda *args, **options: kept.append(own(*args, **options)) or kept[-1]
    cam(x, [ClassifierOutputTarget(TARGET)])
    large = torch.nn.functional.interpolate(torch.tensor(kept[0])[None], (SIZE, SIZE), mode="bilinear")
    return [[float(f"{v:.7g}") for v in row] for row in large[0, 0].numpy()[::5, ::7].astype("float64")]


def main() -> None:
    rows = [
        {"method": m, "gain": METHODS[m][1], "layer": ours, "heat": heat(m, t)}
        for m in METHODS
        for ours, t in LAYERS.items()
    ]
    facts = {"size": SIZE, "classes": CLASSES, "target": TARGET}
    lines = ",\n".join(json.dumps({**facts, **row}) for row in rows)
    Path(__file__).with_name("saliency.json").write_text("[\n" + lines + "\n]\n")


if __name__ == "__main__":
    main()
