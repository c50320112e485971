"""Write the goldens: logits and parameter counts of the reference implementations in PyTorch.

Run it where torch, torchvision and timm are installed, from the root of the repository:

    python tests/goldens/make.py

keras_cnn is imported for its names and shapes only; Keras is not needed and not used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import seeded  # noqa: E402

from keras_cnn import catalog, convert, tally  # noqa: E402
from keras_cnn.convert.rename import to_theirs  # noqa: E402
from keras_cnn.spec import Head  # noqa: E402

SIZES = (64, 75)
LARGER = {"Inception": (96, 107), "InceptionResNet": (96, 107)}  # their valid windows need room
CLASSES = 10


class CifarBlock(nn.Module):
    """He et al. 2015, section 4.2, written from the paper: two 3x3 convolutions, option A."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.stride, self.new = stride, filters - inputs

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        half = self.new // 2
        x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, half))
        return torch.relu(x + y)


class CifarResNet(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks = (depth - 2) // 6
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        for s, (inputs, filters) in enumerate([(16, 16), (16, 32), (32, 64)], 1):
            layers = [CifarBlock(inputs, filters, 1 if s == 1 else 2)]
            layers += [CifarBlock(filters, filters, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{s}", nn.Sequential(*layers))
        self.linear = nn.Linear(64, 10)

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def reference(name: str, classes: int | None) -> nn.Module:
    spec = catalog.get(name)
    if getattr(spec, "shortcut", "") == "pad":
        return CifarResNet(int(name.removeprefix("resnet")))
    return timm.create_model(name, **({"num_classes": classes} if classes else {}))


def golden(name: str) -> dict:
    spec = catalog.get(name)
    parameters = sum(p.numel() for p in reference(name, None).parameters())
    config = catalog.default_config(name, spec).with_(head=Head(classes=CLASSES))
    model = reference(name, CLASSES).eval()
    fmt = convert.cifar.FORMAT if isinstance(model, CifarResNet) else convert.timm.FORMAT
    values = seeded.arrays(tally.variables(tally.tally(config)))
    theirs, state = to_theirs(values, spec, fmt), model.state_dict()
    assert theirs.keys() == {k for k in state if not k.endswith("num_batches_tracked")}, name
    # A 1x1 convolution as classifier is a dense layer's kernel with two more axes.
    model.load_state_dict(
        {k: torch.tensor(np.ascontiguousarray(v)).reshape(state[k].shape) for k, v in theirs.items()}, strict=False
    )
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.preprocess.mean, config.preprocess.std))
    logits = {}
    for size in LARGER.get(spec.family, SIZES):
        x = torch.tensor(seeded.image(size)).permute(0, 3, 1, 2) / 255.0
        with torch.no_grad():
            logits[str(size)] = [round(v, 6) for v in model((x - mean) / std)[0].tolist()]
    return {"parameters": parameters, "logits": logits}


def main() -> None:
    path = Path(__file__).with_name("logits.json")
    goldens = json.loads(path.read_text()) if path.is_file() else {}
    names = sys.argv[1:] or [n for n in catalog.architectures() if not n.startswith("keras_")]
    for name in names:
        goldens[name] = golden(name)
        print(
            name,
            goldens[name]["parameters"],
            max(abs(v) for row in goldens[name]["logits"].values() for v in row),
            flush=True,
        )
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items())
    path.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
