"""Pictures of what speaks for an answer: one an image, for every task, by call and by command."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from images import encode, folder, noise
from PIL import Image

import keras_cnn as kc
from keras_cnn.errors import BadData, BadImage, BadSpec, WeightsWarning


def small(**options):
    return kc.build("resnet20", **{"input_shape": (16, 16, 3)} | options)


TASKS = {  # options, and what is explained of an image
    "classification": ({"classes": ["cat", "dog", "cow"]}, 2),
    "multilabel": ({"classes": ["cat", "dog"], "task": "multilabel"}, None),
    "binary": ({"classes": ["no", "yes"], "task": "binary"}, 2),
    "regression": ({"targets": ["age", "height"]}, 2),
    "segmentation": ({"head": kc.UNet(classes=["road", "sky"])}, 1),
}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_that_answers_classes_or_numbers_is_drawn(task, tmp_path):
    options, count = TASKS[task]
    model, image = small(**options), noise(16, 16)
    [why] = kc.explain(model, image, tmp_path)
    [answer] = kc.predictor(model)(image)
    assert type(why.answer) is type(answer) and why.error is None
    names = kc.config_of(model).class_names
    assert set(why.heats) <= set(names) and len(why.heats) == (count or max(1, len(answer.labels)))
    for name, heat in why.heats.items():
        np.testing.assert_array_equal(heat, kc.insight.grad_cam(model, image, name))
    with Image.open(why.picture) as picture:
        assert picture.format == "PNG" and picture.width > 900 and len(set(picture.convert("L").getdata())) > 50


def test_files_are_seen_as_in_prediction_and_drawn_below_their_folder(tmp_path):
    photos = folder(tmp_path / "photos", {"a": 1, "b": 1}, size=(20, 30))
    (photos / "b" / "bad.png").write_bytes(b"no image")
    model = small(classes=["cat", "dog"])
    found = kc.explain(model, [photos / "a", photos], tmp_path / "why", target="dog", skip_bad=True)
    assert [one.error is None for one in found] == [True, True, True, False] and "bad.png" in found[-1].error
    drawn = [one.picture.relative_to(tmp_path / "why").as_posix() for one in found[:3]]
    assert drawn == ["000.png", "a/000.png", "b/000.png"]
    pixels = kc.load_image(photos / "b" / "000.png", model)
    np.testing.assert_array_equal(found[2].heats["dog"], kc.insight.grad_cam(model, pixels, "dog"))
    with pytest.raises(BadImage, match=r"bad\.png"):
        kc.explain(model, photos, tmp_path / "other")


def test_models_of_another_make_are_told_by_their_outputs(tmp_path):
    layers, image = keras.layers, noise(12, 12)
    for width, end, kind in (
        (3, "softmax", "Answer"),
        (3, "sigmoid", "Labels"),
        (1, "sigmoid", "Answer"),
        (2, None, "Values"),
    ):
        model = keras.Sequential([keras.Input((12, 12, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()])
        model.add(layers.Dense(width, end))
        [why] = kc.explain(model, image / 255, tmp_path)
        assert type(why.answer).__name__ == kind and why.picture.is_file()
    (tmp_path / "x.png").write_bytes(encode(image))
    with pytest.raises(BadSpec, match="give arrays"):
        kc.explain(model, tmp_path / "x.png", tmp_path / "why")


def test_a_layer_and_a_method_are_chosen(tmp_path):
    model, image = small(classes=["cat", "dog"]), noise(16, 16)
    [why] = kc.explain(model, image, tmp_path, target=1, method="grad-cam++", layer="stage2_block3_act")
    expected = kc.insight.grad_cam_plus_plus(model, image, 1, "stage2_block3_act")
    np.testing.assert_array_equal(why.heats["dog"], expected)


@pytest.mark.parametrize(
    "options, told",
    [
        ({"method": "gradcam"}, "choose one of 'grad-cam'"),
        ({"target": "dgo"}, "Did you mean dog"),
        ({"layer": "stage9"}, "no such layer"),
        ({"method": "occlusion", "layer": "stage2_block3_act"}, "layer"),
    ],
)
def test_what_is_not_there_is_told_and_nothing_is_written(options, told, tmp_path):
    with pytest.raises(ValueError, match=told):
        kc.explain(small(classes=["cat", "dog"]), noise(16, 16), tmp_path / "why", **options)
    assert not (tmp_path / "why").exists()


def test_what_answers_no_class_and_no_number_is_told(tmp_path):
    for options in ({"task": "embedding"}, {"classes": 0}):
        with pytest.raises(BadSpec):
            kc.explain(small(**options), noise(16, 16), tmp_path)
    with pytest.raises(BadSpec, match="no spatial maps"):
        kc.explain(kc.build("tcn", input_shape=(16, 3), classes=2), noise(16, 16), tmp_path)
    with pytest.raises(BadData, match="give a path, an array"):
        kc.explain(small(classes=2), 7, tmp_path)


def test_the_command_draws_a_picture_an_image(run, tmp_path):
    net = kc.save_pretrained(small(classes=["cat", "dog"]), tmp_path / "net")
    photos = folder(tmp_path / "photos", {".": 2})
    code, out, err = run("explain", photos, "-m", net, "--out", tmp_path / "why", "--class", "dog")
    assert code == 0, err
    assert out.count("shows what speaks for dog") == 2 and (tmp_path / "why" / "001.png").is_file()
    code, out, err = run("explain", photos / "000.png", "-m", net, "--out", tmp_path / "why", "--json")
    [told] = json.loads(out)
    assert code == 0 and set(told["explained"]) == {"cat", "dog"} and told["picture"].endswith("000.png")
    code, _, err = run("explain", photos, "-m", net, "--out", tmp_path / "why", "--class", "dgo")
    assert code == 2 and "Did you mean dog" in err
    code, _, err = run("explain", photos, "-m", net, "--out", photos)
    assert code == 2 and "would be written over" in err


def test_random_weights_are_told(tmp_path):
    with pytest.warns(WeightsWarning, match="resnet20 has random weights"):
        kc.explain("resnet20", noise(32, 32), tmp_path)
