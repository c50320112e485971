"""What pretrained weights bring, and when they stop: learning curves from scratch and by transfer, at several sizes.

    python examples/what_to_expect.py path/to/photos runs/study --sizes 5 25 --seeds 2

Photos lie in one folder a class; "digits" are scikit-learn's handwritten ones. Transfer learning promises a higher
start, a higher slope and a higher asymptote; the pictures show which of them hold for your data, and the table says how
sure that is. With 20 images of each of four digits, the pretrained network is more than 20 points better. The same
command goes on after a crash. `keras-cnn fine-tune --study` is the same.
"""

import argparse

import keras_cnn as kc
from keras_cnn.training.study import METHODS, summarise

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("out", help="the only folder that is written to")
parser.add_argument("--sizes", type=int, nargs="+", default=[5, 25], help="training images of each class")
parser.add_argument("--seeds", type=int, default=2, help="repetitions")
parser.add_argument("--epochs", type=int, default=6, help="of fine-tuning; training from scratch has twice as many")
parser.add_argument("--methods", nargs="+", default=list(METHODS), help=", ".join(METHODS))
given = parser.parse_args()
WEIGHTS = "resnet18_half.tiny_in200"  # comes with the package

model = kc.build(WEIGHTS)
data = kc.load_data(given.data, model, augment="light")


def build(pretrained: bool):
    if pretrained:
        return kc.build(WEIGHTS, classes=data.class_names)
    scratch = {"input_shape": model.input_shape[1:], "preprocess": kc.Preprocess.of(model)}
    return kc.build("resnet18_half", classes=data.class_names, **scratch)


plan = {"sizes": given.sizes, "seeds": range(given.seeds), "methods": given.methods}
rows = kc.study(build, data, given.out, **plan, epochs=given.epochs, scratch_epochs=2 * given.epochs, verbose=1)
for line in summarise(rows):
    print(
        f"{line.images:5} images  {line.method:12}  first epoch {line.first:6.1%}  "
        f"best {line.best:6.1%} +- {line.spread:.1%} over {line.runs} seeds"
    )
print(f"{given.out}/study.png has the curves")
