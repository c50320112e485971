"""Teach a pretrained network your own photos, step by step with Keras' tools; `kc.fine_tune` does it in one call.

    python examples/fine_tune_photos.py path/to/photos runs/photos

Photos lie in one folder a class. Without arguments the example learns scikit-learn's handwritten digits; only with a
second one is anything written. From 160 photos of five flowers it learns to name more than 55 % of others, where chance
is 20 %. From 80 handwritten digits of four kinds it names more than 90 % of others, where chance is 25 %.
"""

import sys

import keras

import keras_cnn as kc

DATA = sys.argv[1] if len(sys.argv) > 1 else "digits"
OUT = sys.argv[2] if len(sys.argv) > 2 else None
WEIGHTS = "resnet18_half.tiny_in200"  # comes with the package
HEAD_EPOCHS, EPOCHS = 5, 6


def compile_(model, peak, epochs):
    """AdamW whose rate rises to its peak for a fifth of the epochs and then falls to nothing, as a cosine."""
    steps = epochs * len(data.train)
    rise = max(steps // 5, 1)
    rate = keras.optimizers.schedules.CosineDecay(peak / 25, steps - rise, warmup_target=peak, warmup_steps=rise)
    # The clipped norm matters: with batch norm in inference mode nothing else tames a large step.
    optimizer = keras.optimizers.AdamW(rate, weight_decay=0.05, global_clipnorm=1.0)
    model.compile(optimizer, loss="sparse_categorical_crossentropy", metrics=["accuracy"])


keras.utils.set_random_seed(0)
data = kc.load_data(DATA, kc.build(WEIGHTS), augment="light")
print(data.sizes, "images of", ", ".join(data.class_names))

# A new head on features that are frozen up to the last stage: only 512 x classes weights learn, quickly.
model = kc.build(WEIGHTS, classes=data.class_names, freeze="stage4")
compile_(model, 1e-2, HEAD_EPOCHS)
model.fit(data.train, validation_data=data.val, epochs=HEAD_EPOCHS)

# Then the whole network at a lower rate. Batch norm stays in inference mode: its statistics are worth more than
# what small batches of other images would say. The best epoch is kept.
kc.unfreeze(model)
compile_(model, 5e-4, EPOCHS)
best = keras.callbacks.EarlyStopping("val_accuracy", mode="max", patience=EPOCHS, restore_best_weights=True)
model.fit(data.train, validation_data=data.val, epochs=EPOCHS, callbacks=[best])

accuracy = model.evaluate(data.val, return_dict=True)["accuracy"]
print(f"{accuracy:.1%} of the validation images are named right")
if OUT:
    kc.save_pretrained(model, OUT, provenance={"data": DATA, "metrics": {"val_accuracy": accuracy}})
    print(f"{OUT} is a weights directory now: kc.build({OUT!r})")
