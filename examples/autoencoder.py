"""Images to images through a narrow code: a pretrained encoder, and a decoder that gives the image back.

    python examples/autoencoder.py flowers.zip runs/autoencoder

The data is what `load_data` takes; its labels are not looked at. The decoder is a U-Net's without the paths that lead
past the code, so that all that it draws has to come through the encoder's last map: of a photo of 64x64 pixels, 2x2
places of 512 numbers. On 40 drawn scenes it gives back more than half of the variance (R2) of others.

The picture has photos, and below each what the network makes of it.
"""

import argparse
from pathlib import Path

import keras

import keras_cnn as kc

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data", help="a folder or zip of images")
parser.add_argument("out", type=Path, help="the only folder that is written to; the same command goes on after a crash")
parser.add_argument("--weights", default="resnet18.tiny_in200", help="of the encoder: a tag, directory or address")
parser.add_argument("--size", type=int, nargs=2, default=[64, 64], help="height and width at which photos are seen")
parser.add_argument("--epochs", type=int, default=8, help="of the whole network, after half as many of the decoder")
given = parser.parse_args()

keras.utils.set_random_seed(0)
head = kc.UNet(classes=3, skip=None, task="reconstruction")
model = kc.build(given.weights, head=head, input_shape=(*given.size, 3))
if not kc.config_of(model).provenance:
    print(f"{given.weights} names no weights: the encoder begins at random, and needs more photos and epochs")
data = kc.load_data(given.data, model, augment="light", batch_size=8)
print(data)

height, width, channels = kc.features(model, "stage4").output_shape[1:]
print(f"the code is {height}x{width}x{channels}, of images of {given.size[0]}x{given.size[1]}x3")
kc.fine_tune(model, data, head_epochs=given.epochs // 2, epochs=given.epochs, out=given.out / "weights", resume=True)

result = kc.evaluate(model, data)
for name, title in result.pictures(given.out).items():
    print(f"{given.out / name}: {title}")
print(f"R2 {result.metrics['r2']:.3f}, off by {result.metrics['rmse']:.1f} of 255 at a pixel")
