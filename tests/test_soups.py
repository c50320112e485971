"""The mean of the weights of several runs."""

import json

import keras
import numpy as np
import pytest

import keras_cnn as kc
from keras_cnn.errors import BadData, BadSpec, RunExists, RunWarning, WeightsMismatch

SMALL = {"depths": (1,), "widths": (8,), "strides": (1,), "input_shape": (8, 8, 3)}


def network(seed: int, **told):
    keras.utils.set_random_seed(seed)
    return kc.build("resnet20", **{"classes": 2, **SMALL, **told})


def learn(count: int, seed: int = 0):
    y = np.arange(count) % 2
    rng = np.random.default_rng(seed)
    return (rng.integers(0, 200, (count, 8, 8, 3)) + 50 * y[:, None, None, None]).astype("uint8"), y


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trainings from the same weights, and one of other weights, which is good for nothing."""
    place, start = tmp_path_factory.mktemp("runs"), network(0).get_weights()
    for name, seed in (("a", 1), ("b", 2)):
        model = network(0)
        model.set_weights(start)
        kc.train(model, learn(64, seed), epochs=3, batch_size=16, learning_rate=0.02, verbose=0)
        kc.save_pretrained(model, place / name)
    kc.save_pretrained(network(7), place / "random")
    return place


def test_the_mean_is_that_of_each_weight(runs):
    a, b = (kc.build(runs / name) for name in "ab")
    with pytest.warns(RunWarning, match="a mean of statistics fits no weights: give data"):
        soup = kc.average([runs / "a", runs / "b"])
    for one, two, mean in zip(a.get_weights(), b.get_weights(), soup.get_weights(), strict=True):
        np.testing.assert_allclose(mean, (one.astype("float64") + two) / 2, rtol=1e-6, atol=1e-7)
    assert kc.config_of(soup).provenance["source"] == "the mean of 2 runs: a, b"
    same = kc.average([runs / "a", runs / "a"])
    for one, mean in zip(a.get_weights(), same.get_weights(), strict=True):
        np.testing.assert_allclose(one, mean, rtol=1e-6)


def test_statistics_of_batch_norm_are_those_of_the_mean(runs):
    data = kc.load_data({"train": learn(64), "val": learn(32, 5)}, network(0))
    soup = kc.average([runs / "a", runs / "b"], data)
    before = soup.get_weights()
    kc.recalibrate_batchnorm(soup, data)
    for one, two in zip(before, soup.get_weights(), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def test_a_greedy_mean_is_never_worse_than_the_best_run(runs, capsys):
    data = kc.load_data({"train": learn(64), "val": learn(64, 5)}, network(0))
    best = 0.0
    for name in ("a", "b", "random"):
        model = kc.recalibrate_batchnorm(kc.build(runs / name), data)
        best = max(best, kc.evaluate(model, data, split="val").metrics["accuracy"])
    soup = kc.average([runs / "random", runs / "a", runs / "b"], data, greedy=True)
    assert kc.evaluate(soup, data, split="val").metrics["accuracy"] >= best - 1e-6
    assert "alone; with it the mean has" in capsys.readouterr().out
    assert "runs: " in kc.config_of(soup).provenance["source"]


def test_images_of_any_of_its_runs_are_known_again(runs, tmp_path):
    """Runs a and b saw 12 images each, 8 of them the same; 4 are new to both."""
    x, y = learn(20)
    for name, some in (("a", slice(0, 12)), ("b", slice(4, 16))):
        kc.train(network(0), (x[some], y[some]), epochs=1, out=tmp_path / name, verbose=0)
    parts = [tmp_path / "a", tmp_path / "b"]
    with pytest.warns(RunWarning, match="statistics"):
        kc.average(parts, out=tmp_path / "soup")
    result = kc.evaluate(tmp_path / "soup", (x, y))
    assert (len(result), len(result.trained_on)) == (4, 16)
    with pytest.raises(RunExists, match="soup already holds weights"):
        kc.average(parts, out=tmp_path / "soup")
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "progress.safetensors").touch()  # of a run that has no weights yet
    with pytest.raises(RunExists, match=r"begun already holds weights or a run \(progress"):
        kc.average(parts, out=tmp_path / "begun")
    with pytest.warns(RunWarning, match="does not tell which images it was trained on"):
        kc.average([tmp_path / "a", runs / "a"], out=tmp_path / "half")
    assert kc.evaluate(tmp_path / "half", (x, y)).trained_on is None
    first, *hashes = (tmp_path / "b" / "seen.txt").read_text().splitlines()
    other = json.dumps(json.loads(first) | {"crop": 0.5})
    (tmp_path / "b" / "seen.txt").write_text("\n".join([other, *hashes]))
    with pytest.warns(RunWarning, match="at different sizes or in other cuts"):
        kc.average(parts, out=tmp_path / "apart")
    assert not (tmp_path / "apart" / "seen.txt").exists()


def test_runs_that_have_no_mean(runs, tmp_path):
    kc.save_pretrained(network(0, classes=3), tmp_path / "three")
    with pytest.raises(WeightsMismatch, match="three is another network than"):
        kc.average([runs / "a", tmp_path / "three"])
    with pytest.raises(BadSpec, match="two runs or more"):
        kc.average([runs / "a"])
    with pytest.raises(BadData, match="greedy needs data with validation images"):
        kc.average([runs / "a", runs / "b"], greedy=True)
