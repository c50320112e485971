"""Teach a U-Net on a pretrained encoder what each pixel of a photo shows.

    python examples/segment_streets.py camvid.zip runs/streets

The data is a folder or zip of images/ and masks/ with the same names, perhaps below train/ and val/; masks hold numbers
of classes, which `classes.txt` names. With CamVid (Brostow et al. 2008: 367 street scenes, 11 classes) at 128x96 it
takes some minutes on two cores. From 24 drawn scenes of four classes the mean intersection over union of others is
above 0.5, where calling every pixel the commonest class would give less than 0.2.

The picture shows photos, their true masks and the predicted ones: of some validation images, and of the worst.
"""

import argparse
from pathlib import Path

import keras

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="a folder or zip of images/ and masks/")
parser.add_argument("out", type=Path, help="the only folder that is written to; the same command goes on after a crash")
parser.add_argument("--weights", default="resnet18.tiny_in200", help="of the encoder: a tag, directory or address")
parser.add_argument("--size", type=int, nargs=2, default=[96, 128], help="height and width at which photos are seen")
parser.add_argument(
    "--epochs", type=int, default=6, help="of the whole network, after a quarter as many of the decoder"
)
given = parser.parse_args()

keras.utils.set_random_seed(0)
preprocess = kc.Preprocess(size=given.size).whole()  # every pixel has an answer, so that none may be cropped
data = kc.load_data(given.data, preprocess, task="segmentation", augment="light", batch_size=8)
print(data)

# Any network of the catalogue is an encoder; "resnet18" without a tag begins with random weights.
model = kc.build(given.weights, head=kc.UNet(classes=data.class_names), input_shape=(*given.size, 3))
if not kc.config_of(model).provenance:
    print(f"{given.weights} names no weights: the encoder begins at random, and needs more photos and epochs")

# First the decoder learns on the encoder as it is, then all do. In cross-entropy large classes speak loudest; the Dice
# coefficient beside it counts each class alike, however few its pixels are.
epochs = {"head_epochs": given.epochs // 4, "epochs": given.epochs}
kc.fine_tune(model, data, loss="crossentropy+dice", out=given.out, resume=True, **epochs)

result = kc.evaluate(model, data)  # at the size at which the network sees them
for row in sorted(result.by_class(), key=lambda row: -row["iou"]):
    print(f"{row['iou']:6.1%}  {row['class']}")
for name, title in result.pictures(given.out).items():
    print(f"{given.out / name}: {title}")
print(f"mean IoU {result.metrics['miou']:.3f}, {result.metrics['accuracy']:.1%} of the pixels are right")
