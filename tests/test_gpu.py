"""What holds on an accelerator: run with `python -m pytest -m gpu -n 0` where there is one."""

import keras
import numpy as np
import pytest

import keras_cnn as kc

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def gpu():
    if not keras.distribution.list_devices("gpu"):
        pytest.skip("the backend sees no GPU")


@pytest.fixture
def bfloat16():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


def photos(count: int, side: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype("uint8")


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_b0", "inception_v3"])
def test_answers_are_those_of_the_cpu(name):
    """Within what TensorFloat-32, which convolutions of float32 use there, rounds: ten bits of each product."""
    keras.utils.set_random_seed(0)
    model = kc.build(name, classes=10, input_shape=(128, 128, 3))
    found = model.predict(photos(4, 128), verbose=0)
    with keras.device("cpu:0"):
        expected = keras.ops.convert_to_numpy(model(photos(4, 128).astype("float32"), training=False))
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_bfloat16_learns(bfloat16):
    keras.utils.set_random_seed(0)
    y = np.arange(64) % 2
    x = (photos(64, 32) // 4 + 120 * y[:, None, None, None]).astype("uint8")
    model = kc.build("resnet18", classes=2, input_shape=(32, 32, 3))
    losses = kc.train(model, x, y, epochs=5, batch_size=16, learning_rate=0.05, verbose=0).history["loss"]
    assert np.isfinite(losses).all() and losses[-1] < 0.7 * losses[0]
