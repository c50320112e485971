"""The CIFAR ResNets of Y. Idelbayev's PyTorch implementation (BSD-2-Clause), of He et al. 2015, section 4.2."""

from __future__ import annotations

import dataclasses

from keras_cnn.checkpoints.convert import timm
from keras_cnn.models.config import Preprocess

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FORMAT = dataclasses.replace(
    timm.FORMAT,
    name="the CIFAR ResNets (akamaster/pytorch_resnet_cifar10)",
    rules=lambda backbone: [("head_logits", "linear"), *timm.FORMAT.rules(backbone)],
    preprocess=lambda backbone, state: Preprocess(size=(32, 32), crop=1.0),
    class_names=CLASSES,
)
