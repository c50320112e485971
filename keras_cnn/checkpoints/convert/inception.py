"""Names of the Inceptions in PyTorch: torchvision, timm, and facenet-pytorch for Inception-ResNet v1."""

from __future__ import annotations

from typing import Any

from keras_cnn.checkpoints.convert.rename import Rules
from keras_cnn.models.families import inception_resnet
from keras_cnn.models.families.inception import STAGES, Module


def plain(backbone: Any) -> Rules:
    """Inception v3 and v4."""
    return {"v3": _v3, "v4": _v4}[backbone.version]()


# torchvision's names of Inception v3's convolutions, branch by branch; a pair is a fork, None a pool.
DOUBLE = ["branch3x3dbl_1", "branch3x3dbl_2", "branch3x3dbl_3"]
POOL = [None, "branch_pool"]
MIXED: dict[str, list[list[Any]]] = {
    "A": [["branch1x1"], ["branch5x5_1", "branch5x5_2"], DOUBLE, POOL],
    "B": [["branch3x3"], DOUBLE],
    "C": [
        ["branch1x1"],
        [f"branch7x7_{i}" for i in (1, 2, 3)],
        [f"branch7x7dbl_{i}" for i in (1, 2, 3, 4, 5)],
        POOL,
    ],
    "D": [["branch3x3_1", "branch3x3_2"], [f"branch7x7x3_{i}" for i in (1, 2, 3, 4)]],
    "E": [
        ["branch1x1"],
        ["branch3x3_1", ("branch3x3_2a", "branch3x3_2b")],
        ["branch3x3dbl_1", "branch3x3dbl_2", ("branch3x3dbl_3a", "branch3x3dbl_3b")],
        POOL,
    ],
}
KINDS = {"stage2": "AAA", "stage3": "BCCCC", "stage4": "DEE"}


def _unit(ours: str, theirs: str, number: str = "") -> Rules:
    """A convolution and its norm."""
    return [(f"{ours}conv{number}", f"{theirs}.conv"), (f"{ours}norm{number}", f"{theirs}.bn")]


def _v3() -> Rules:
    """torchvision `inception.py`, timm `inception_v3.py`: stage 2 is their Mixed_5, and so on."""
    units = {"stem_1": "1a_3x3", "stem_2": "2a_3x3", "stem_3": "2b_3x3", "stage1_2": "3b_1x1", "stage1_3": "4a_3x3"}
    rules: Rules = [("head_logits", "fc"), ("aux_logits", "AuxLogits.fc")]
    rules += _unit("aux_", "AuxLogits.conv0", "1") + _unit("aux_", "AuxLogits.conv1", "2")
    for place, name in units.items():
        stage, number = place.split("_")
        rules += _unit(f"{stage}_", f"Conv2d_{name}", number)
    for stage, kinds in KINDS.items():
        for b, kind in enumerate(kinds, 1):
            mixed = f"Mixed_{int(stage[-1]) + 3}{chr(ord('a') + b - 1 + (stage == 'stage2'))}"
            for k, names in enumerate(MIXED[kind], 1):
                for i, name in enumerate(names, 1):
                    ours = f"{stage}_block{b}_branch{k}_"
                    if isinstance(name, tuple):
                        for f, fork in enumerate(name, 1):
                            rules += _unit(f"{ours}fork{i}_branch{f}_", f"{mixed}.{fork}", "1")
                    elif name:
                        rules += _unit(ours, f"{mixed}.{name}", str(i))
    return rules


def _v4() -> Rules:
    """timm `inception_v4.py`: one list of modules; a branch of one convolution is no Sequential."""
    rules: Rules = [("head_logits", "last_linear")]
    for i in range(3):
        rules += _unit("stem_", f"features.{i}", str(i + 1))
    places = ((s, b, table) for s, (_, modules) in enumerate(STAGES["v4"]) for b, table in enumerate(modules, 1))
    for position, (s, b, table) in enumerate(places, 3):
        ours, theirs = f"stage{s}_block{b}_", f"features.{position}"
        if len(table) == 2 and ["max"] in table:  # the stem's pool beside one convolution
            rules += _unit(f"{ours}branch{2 - table.index(['max'])}_", f"{theirs}.conv", "1")
        else:
            rules += _branches(ours, theirs, table)
    return rules


def _branches(ours: str, theirs: str, table: Module) -> Rules:
    """Branches as Sequentials (pools count, but hold nothing); one that forks at its end is `branch1_0`, then
    `branch1_1a` beside `branch1_1b`."""
    rules: Rules = []
    for k, operations in enumerate(table):
        place, name = f"{ours}branch{k + 1}_", f"{theirs}.branch{k}"
        forks = isinstance(operations[-1], list)
        for i, operation in enumerate(operations):
            if isinstance(operation, list):
                for f, letter in enumerate("ab", 1):
                    rules += _unit(f"{place}fork{i + 1}_branch{f}_", f"{name}_{i}{letter}", "1")
            elif not isinstance(operation, str):
                index = (f"_{i}" if forks else f".{i}") if len(operations) > 1 else ""
                rules += _unit(place, f"{name}{index}", str(i + 1))
    return rules


# Their names, by version: of the stages' reductions and repeated blocks, and of what stands before and behind them.
RESIDUAL = {
    "v1": {
        "stages": [(None, "repeat_1"), ("mixed_6a", "repeat_2"), ("mixed_7a", "repeat_3")],
        "units": {"stage2_1": "4b"},
        "dense": [("head_embedding", "last_linear"), ("head_norm", "last_bn"), ("head_logits", "logits")],
    },
    "v2": {
        "stages": [("mixed_5b", "repeat"), ("mixed_6a", "repeat_1"), ("mixed_7a", "repeat_2")],
        "units": {"top_": "7b"},
        "dense": [("head_logits", "classif")],
    },
}
RESIDUAL_STEM = {"stem_1": "1a", "stem_2": "2a", "stem_3": "2b", "stage1_2": "3b", "stage1_3": "4a"}


def residual(backbone: Any) -> Rules:
    """timm `inception_resnet_v2.py`; facenet-pytorch's `InceptionResnetV1`."""
    names: dict[str, Any] = RESIDUAL[backbone.version]
    rules: Rules = [*names["dense"]]
    for place, name in (RESIDUAL_STEM | names["units"]).items():
        stage, number = place.split("_")
        rules += _unit(f"{stage}_", f"conv2d_{name}", number)
    stages = inception_resnet.STAGES[backbone.version]
    for s, (stage, (reduction, repeat)) in enumerate(zip(stages, names["stages"], strict=True), 2):
        if reduction:
            rules += _branches(f"stage{s}_reduction_", reduction, stage.reduction)
        places = {f"block{b}": f"{repeat}.{b - 1}" for b in range(1, stage.blocks + 1)}
        places |= {f"block{stage.blocks + 1}": "block8"} if s == 4 else {}
        for block, theirs in places.items():
            rules += _branches(f"stage{s}_{block}_", theirs, stage.table)
            rules.append((f"stage{s}_{block}_up", f"{theirs}.conv2d"))
    return rules
