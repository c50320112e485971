"""What pretrained weights bring, and when they stop: learning curves from scratch and by transfer, at several sizes.

    python examples/what_to_expect.py path/to/photos runs/study

Photos lie in one folder a class; without arguments, scikit-learn's handwritten digits are learnt. Transfer learning
promises a higher start, a higher slope and a higher asymptote; the pictures show which of them hold for your data, and
the table says how sure that is. The same command goes on after a crash. `keras-cnn finetune --study` is the same.
"""

import sys

import keras_cnn as kc
from keras_cnn.transfer.expectations import summarise

DATA = sys.argv[1] if len(sys.argv) > 1 else "digits"
OUT = sys.argv[2] if len(sys.argv) > 2 else "runs/study"
WEIGHTS = "resnet18.tiny_in200"  # comes with the package
SIZES, SEEDS = (5, 25), (0, 1)  # training images of each class; repetitions

model = kc.build(WEIGHTS)
data = kc.load_data(DATA, model, augment="light")


def build(pretrained: bool):
    if pretrained:
        return kc.build(WEIGHTS, classes=data.class_names)
    scratch = {"input_shape": model.input_shape[1:], "preprocess": kc.Preprocess.of(model)}
    return kc.build("resnet18", classes=data.class_names, **scratch)


rows = kc.study(build, data, OUT, sizes=SIZES, seeds=SEEDS, epochs=6, scratch_epochs=12, verbose=1)
for line in summarise(rows):
    print(
        f"{line.images:5} images  {line.method:12}  first epoch {line.first:6.1%}  "
        f"best {line.best:6.1%} +- {line.spread:.1%} over {line.runs} seeds"
    )
print(f"{OUT}/study.png has the curves")
