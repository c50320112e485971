"""The Inceptions' options: the auxiliary classifier, the embedding head, what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import seeded

import keras_cnn as kc
from keras_cnn.checkpoints import arrays
from keras_cnn.errors import BadSpec
from keras_cnn.models import registry, shapes
from keras_cnn.transfer import split


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A directory that training with the auxiliary classifier wrote, its history, and the model."""
    out = tmp_path_factory.mktemp("aux")
    model = kc.build("inception_v3", classes=3, aux=True)
    images, labels = np.random.default_rng(0).integers(0, 256, (2, 299, 299, 3), dtype="uint8"), np.array([0, 2])
    history = kc.train(
        model, (images, labels), (images, labels), epochs=1, batch_size=2, learning_rate=1e-3, out=out, verbose=0
    )
    return out, history.history, model


def test_auxiliary_classifier_adds_its_weighted_loss(trained):
    _, history, model = trained
    assert [tuple(o.shape) for o in model.outputs] == [(None, 3), (None, 3)]
    assert list(kc.stages(model))[-2:] == ["head", "aux"]
    assert history["loss"][0] == pytest.approx(history["head_probs_loss"][0] + 0.4 * history["aux_probs_loss"][0])
    assert {"accuracy", "val_accuracy"} <= history.keys()


def test_auxiliary_classifier_is_left_out_for_prediction(trained):
    out, _, model = trained
    plain = kc.build(out, aux=False)
    image = seeded.image(299)
    np.testing.assert_array_equal(plain.predict_on_batch(image), model.predict_on_batch(image)[0])
    assert not [key for key in arrays.variables(plain) if key.startswith("aux_")]


def test_auxiliary_classifier_is_left_out_of_the_features(trained):
    lower, head = split.backbone(trained[2])
    assert lower.output_shape == (None, 2048) and head.output_shape == (None, 3)
    assert not [layer.name for layer in (*lower.layers, *head.layers) if layer.name.startswith("aux_")]


def test_auxiliary_classifier_follows_new_classes(trained):
    out, _, model = trained
    new = kc.build(out, classes=5)
    assert [tuple(o.shape) for o in new.outputs] == [(None, 5), (None, 5)]
    ours, theirs = arrays.arrays(new), arrays.arrays(model)
    np.testing.assert_array_equal(ours["aux_conv2/kernel"], theirs["aux_conv2/kernel"])
    assert ours["aux_logits/kernel"].shape == (768, 5)


def test_auxiliary_classifier_is_torchvisions():
    """27,161,264 parameters with it, as torchvision's inception_v3(aux_logits=True)."""
    config = registry.get("inception_v3")
    config = config.with_(backbone=config.backbone.with_(aux=True))
    assert shapes.parameters(shapes.tally(config)) == 27_161_264


def test_only_inception_has_one():
    with pytest.raises(BadSpec, match="ResNet has no aux"):
        kc.build("resnet20", aux=True)


def test_embeddings_have_length_one():
    net = kc.build("inception_resnet_v1", input_shape=(96, 96, 3), head=kc.Head(classes=0, embedding=512))
    # 22.8 M of the trunk, 1792 x 512 of the layer, and its normalisation.
    trunk = kc.info("inception_resnet_v1")["parameters"] - 1793 * 1000
    assert sum(np.prod(v.shape) for v in net.trainable_weights) == trunk + 1792 * 512 + 2 * 512
    vectors = net.predict_on_batch(np.concatenate([seeded.image(96), 255 - seeded.image(96)]))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize(("name", "least"), [("inception_v3", 75), ("inception_resnet_v2", 75), ("inception_v4", 75)])
def test_too_small_an_image_names_the_least(name, least):
    with pytest.raises(BadSpec, match=f"at least {least}x{least} pixels, not 64x64"):
        kc.build(name, input_shape=(64, 64, 3))
    kc.info(name)


def test_grids_are_not_dilated():
    with pytest.raises(BadSpec, match="output_stride=32 only"):
        kc.build("inception_v3", output_stride=16)
