"""The catalogue of public weights: every line reads, names a network of ours, and carries what is needed to use it."""

from __future__ import annotations

import csv
import re

import pytest

import keras_cnn as kc
from keras_cnn.hub.tags import _known, embedded, known
from keras_cnn.models import registry

# Figures of timm's results files, keras.applications' table and torchvision's documentation.
TOP1 = {
    "inception_v3.tf_in1k": 77.87,
    "inception_resnet_v2.tf_in1k": 80.45,
    "resnet50.a1_in1k": 81.24,
    "resnet50.tv_in1k": 76.16,
    "resnetv2_101.a1h_in1k": 83.00,
    "efficientnet_b0.ra_in1k": 77.70,
    "tf_efficientnet_b7.ns_jft_in1k": 86.85,
    "tf_efficientnet_l2.ns_jft_in1k": 88.36,
    "keras_resnet50.keras_in1k": 74.9,
    "tf_efficientnet_b7.keras_in1k": 84.3,
}


@pytest.mark.parametrize("tag", known())
def test_every_line_is_complete(tag):
    line = known()[tag]
    config = line.config
    assert config.architecture == tag.partition(".")[0] in registry.architectures()
    assert re.fullmatch(r"hf://timm/[\w.]+|https://[\w./-]+", line.source)
    assert line.source.startswith("hf://") or re.fullmatch(r"md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,64}", line.hash)
    assert config.provenance["license"]
    assert config.input_shape == (*config.preprocess.size, 3)
    assert config.head.classes >= 1000
    assert (line.top1 is None) == (line.top1_size is None)
    assert line.top1 is None or (65 < line.top1 < 90 and line.top1_size <= 800)


def test_every_column_is_read():
    read = set()

    class Row(dict):
        def __getitem__(self, column):
            read.add(column)
            return super().__getitem__(column)

    for path in embedded().glob("*.csv"):
        with path.open(newline="", encoding="utf-8") as file:
            rows = [Row(row) for row in csv.DictReader(file)]
        read.clear()
        for row in rows:
            _known(row)
        assert read == set(rows[0])


@pytest.mark.parametrize("tag", TOP1)
def test_published_accuracy(tag):
    assert known()[tag].top1 == pytest.approx(TOP1[tag], abs=0.02)


def test_licences_that_forbid_commercial_use_are_marked():
    marked = {tag for tag, line in known().items() if not line.commercial}
    assert {"resnet18.fb_swsl_ig1b_ft_in1k", "resnet50.fb_ssl_yfcc100m_ft_in1k"} <= marked
    assert all(".fb_" in tag for tag in marked)


def test_numerics_travel_with_the_weights():
    assert known()["inception_v3.keras_in1k"].config.backbone.avg_pad == "exclude"
    assert known()["inception_v3.tf_in1k"].config.backbone.avg_pad == "include"
    assert known()["efficientnet_b5.tv_in1k"].config.backbone.norm_eps == 1e-3


def test_info_of_a_tag_needs_no_network():
    facts = kc.info("resnet50.a1_in1k")
    assert (round(facts["top1"], 2), facts["top1_size"], facts["commercial"]) == (81.24, 288, True)
    assert facts["parameters"] == 25557032
    assert facts["provenance"]["source"] == "hf://timm/resnet50.a1_in1k"
