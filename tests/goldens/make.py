"""Write the goldens: logits and parameter counts of the reference implementations in PyTorch.

Run it where torch, torchvision and timm are installed, from the root of the repository:

    python tests/goldens/make.py [NAME ...]

Names such as torchvision/efficientnet_b0 go to torchvision.json, all others to logits.json.

keras_cnn is imported for its names and shapes only; Keras is not needed and not used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from torch import nn

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import seeded  # noqa: E402

from keras_cnn.checkpoints import convert  # noqa: E402
from keras_cnn.checkpoints.convert.rename import to_theirs  # noqa: E402
from keras_cnn.models import registry, shapes  # noqa: E402
from keras_cnn.models.config import Config  # noqa: E402

CLASSES = 10
# Built as for their published weights; the auxiliary classifier takes no part in prediction.
TORCHVISION = {
    "efficientnet_b0": {},
    "efficientnet_b5": {},
    "inception_v3": {"aux_logits": False, "transform_input": True, "init_weights": False},
}
# facenet-pytorch is the reference of inception_resnet_v1, classifier behind the embedding.
FACENET = "inception_resnet_v1"


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


def reference(name: str, classes: int | None, source: str = "") -> nn.Module:
    backbone = registry.get(name).backbone
    if source == "torchvision":
        return torchvision.models.get_model(name, num_classes=classes or 1000, **TORCHVISION[name])
    if getattr(backbone, "shortcut", "") == "pad":
        return CifarResNet(int(name.removeprefix("resnet")))
    if name == FACENET:
        from facenet_pytorch import InceptionResnetV1

        return InceptionResnetV1(classify=True, num_classes=classes or 1000)
    return timm.create_model(name, **({"num_classes": classes} if classes else {}))


GAINS = [1 + i / 20 for i in range(31)]
LIVELY = 0.02  # what the inverted image must change at least in the logits


def golden(name: str) -> dict:
    source, _, name = name.rpartition("/")
    backbone = registry.get(name).backbone
    parameters = sum(p.numel() for p in reference(name, None, source).parameters())
    config = registry.get(name).with_(head=seeded.head(name, CLASSES))
    model = reference(name, CLASSES, source).eval()
    fmt = convert.cifar.FORMAT if isinstance(model, CifarResNet) else convert.timm.FORMAT
    fmt = convert.torchvision.FORMAT if source and backbone.family == "EfficientNet" else fmt
    wanted, images = shapes.variables(shapes.tally(config)), seeded.images(name)
    even = next(iter(images))
    for gain in GAINS:
        fill(model, to_theirs(seeded.arrays(wanted, gain), backbone, fmt), name)
        logits = {which: run(model, images[which], config) for which in (even, "inverted")}
        if np.abs(logits[even] - logits["inverted"]).max() > LIVELY:
            break
    else:
        raise ValueError(f"{name}: no gain makes the logits hang on the image")
    logits = {which: logits.get(which, run(model, image, config)) for which, image in images.items()}
    rounded = {which: [round(float(v), 6) for v in row] for which, row in logits.items()}
    return {"parameters": parameters, "gain": gain, "logits": rounded}


def fill(model: nn.Module, arrays: dict[str, np.ndarray], name: str) -> None:
    state = model.state_dict()
    assert arrays.keys() == {k for k in state if not k.endswith("num_batches_tracked")}, name
    # A 1x1 convolution as classifier is a dense layer's kernel with two more axes.
    tensors = {k: torch.tensor(np.ascontiguousarray(v)).reshape(state[k].shape) for k, v in arrays.items()}
    model.load_state_dict(tensors, strict=False)


def run(model: nn.Module, image: np.ndarray, config: Config) -> np.ndarray:
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.preprocess.mean, config.preprocess.std))
    x = torch.tensor(image).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        return model((x - mean) / std)[0].numpy()


def main() -> None:
    names = sys.argv[1:] or [n for n in registry.architectures() if not n.startswith("keras_")]
    names += [] if sys.argv[1:] else [f"torchvision/{n}" for n in TORCHVISION]
    for source, file in (("torchvision/", "torchvision.json"), ("", "logits.json")):
        chosen = [n for n in names if n.startswith(source)]
        names = [n for n in names if n not in chosen]
        path = Path(__file__).with_name(file)
        goldens = json.loads(path.read_text()) if path.is_file() else {}
        for name in chosen:
            value = goldens[name.removeprefix(source)] = golden(name)
            largest = max(abs(v) for row in value["logits"].values() for v in row)
            print(name, value["parameters"], value["gain"], largest, flush=True)
            write(path, goldens)


def write(path: Path, goldens: dict) -> None:
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in goldens.items())
    path.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
