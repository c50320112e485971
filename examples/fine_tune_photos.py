"""Teach a pretrained network your own photos, step by step with Keras' tools; `kc.fine_tune` does it in one call.

    python examples/fine_tune_photos.py path/to/photos

Photos lie in one folder a class. Without an argument the example learns scikit-learn's handwritten digits.
"""

import sys

import keras

import keras_cnn as kc

DATA = sys.argv[1] if len(sys.argv) > 1 else "digits"
WEIGHTS = "resnet18.tiny_in200"  # comes with the package
HEAD_EPOCHS, EPOCHS = 2, 3

keras.utils.set_random_seed(0)
data = kc.load_data(DATA, kc.build(WEIGHTS), batch_size=64, augment="light")
print({split: sum(counts.values()) for split, counts in data.counts.items()}, "images of", ", ".join(data.class_names))

# A new head on features that are frozen up to the last stage: only 512 x classes weights learn, quickly.
model = kc.build(WEIGHTS, classes=data.class_names, freeze="stage4")
loss = keras.losses.SparseCategoricalCrossentropy()
# jit_compile=False: on a CPU, TensorFlow's XLA convolutions are several times slower.
model.compile(keras.optimizers.AdamW(3e-2), loss, ["accuracy"], jit_compile=False)
model.fit(data.train, validation_data=data.val, epochs=HEAD_EPOCHS, shuffle=False)

# Then the whole network at a lower rate. Batch norm stays in inference mode: its statistics are worth more than
# what small batches of other images would say.
kc.unfreeze(model)
steps = EPOCHS * len(data.train)
rate = keras.optimizers.schedules.CosineDecay(1e-5, steps, warmup_target=5e-4, warmup_steps=steps // 5)
# The clipped norm matters: with batch norm in inference mode nothing else tames a large step.
model.compile(keras.optimizers.AdamW(rate, global_clipnorm=1.0), loss, ["accuracy"], jit_compile=False)
model.fit(data.train, validation_data=data.val, epochs=EPOCHS, shuffle=False)

kc.save_pretrained(model, "runs/example", provenance={"data": DATA})
print("runs/example is a weights directory now: kc.build('runs/example')")
