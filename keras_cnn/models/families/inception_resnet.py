"""Inception-ResNet v1 and v2: Inception modules as residuals, as tables."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from keras_cnn.models.backbone import Variant, drop_path_rates
from keras_cnn.models.builder import Builder, Tensor
from keras_cnn.models.families.inception import ACROSS, DOWN, STAGE1, STEM, Branch, Inception, Module, branch, module


class Residuals(NamedTuple):
    """A stage: operations, a module that reduces the grid (or none), then blocks around the same branches.

    scale: of the residuals before they are added, so that the sum stays stable (1602.07261, section 3.3).
    """

    before: Branch
    reduction: Module
    table: Module
    blocks: int
    scale: float


@dataclass(frozen=True, kw_only=True)
class InceptionResNet(Inception):
    """Szegedy et al. 2016 (1602.07261, section 3.2).

    The residual's last 1x1 convolution has a bias and no normalisation; the very last residual is neither scaled nor
    activated. Without shortcuts (merge="none") nothing is scaled, either. `version`: "v1" or "v2"; v2 ends in a 1x1
    convolution of 1536.
    """

    CHOICES = Inception.CHOICES | {"version": ("v1", "v2")}
    RESIDUAL: ClassVar[bool] = True

    version: str = "v2"

    @property
    def stages(self) -> tuple[str, ...]:
        return (*super().stages, *(["top"] if TOP[self.version] else []))

    def features(self, g: Builder, x: Tensor) -> Iterator[tuple[str, Tensor]]:
        x = branch(g.at("stem"), x, STEM)
        yield "stem", x
        x = branch(g.at("stage1"), x, STAGE1)
        yield "stage1", x
        stages = STAGES[self.version]
        rates = drop_path_rates(self.drop_path_rate, (*(stage.blocks for stage in stages), 1))
        for s, stage in enumerate(stages, 2):
            x = branch(g.at(f"stage{s}"), x, stage.before)
            x = module(g.at(f"stage{s}", "reduction"), x, stage.reduction) if stage.reduction else x
            for b in range(1, stage.blocks + 1):
                x = self._block(g.at(f"stage{s}", f"block{b}"), x, stage.table, stage.scale, next(rates))
            if s == 4:
                last = g.at("stage4", f"block{stage.blocks + 1}")
                x = self._block(last, x, stage.table, 1.0, next(rates), act=False)
            yield f"stage{s}", x
        if width := TOP[self.version]:
            yield "top", g.at("top").conv_norm_act(x, width, 1)

    def _block(self, g: Builder, x: Tensor, table: Module, scale: float, rate: float, act: bool = True) -> Tensor:
        y = module(g, x, table)
        y = g.conv(y, x.shape[-1], 1, bias=True, plain=True, token="up")
        if scale != 1.0 and self.residual:
            y = g.emit("scale", "scale", y, scale=scale)
        x = g.merge(g.drop_path(y, rate), x)
        return g.act(x) if act else x


def _reduction(*branches: Branch) -> Module:
    return [*branches, ["max"]]


STAGES: dict[str, list[Residuals]] = {
    "v1": [
        Residuals([(256, 3, 2)], [], [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (32, 3), (32, 3)]], 5, 0.17),
        Residuals(
            [],
            _reduction([(384, 3, 2)], [(192, 1), (192, 3), (256, 3, 2)]),
            [[(128, 1)], [(128, 1), (128, ACROSS), (128, DOWN)]],
            10,
            0.1,
        ),
        Residuals(
            [],
            _reduction([(256, 1), (384, 3, 2)], [(256, 1), (256, 3, 2)], [(256, 1), (256, 3), (256, 3, 2)]),
            [[(192, 1)], [(192, 1), (192, (1, 3)), (192, (3, 1))]],
            5,
            0.2,
        ),
    ],
    "v2": [
        Residuals(
            ["max"],
            [[(96, 1)], [(48, 1), (64, 5)], [(64, 1), (96, 3), (96, 3)], ["avg", (64, 1)]],
            [[(32, 1)], [(32, 1), (32, 3)], [(32, 1), (48, 3), (64, 3)]],
            10,
            0.17,
        ),
        Residuals(
            [],
            _reduction([(384, 3, 2)], [(256, 1), (256, 3), (384, 3, 2)]),
            [[(192, 1)], [(128, 1), (160, ACROSS), (192, DOWN)]],
            20,
            0.1,
        ),
        Residuals(
            [],
            _reduction([(256, 1), (384, 3, 2)], [(256, 1), (288, 3, 2)], [(256, 1), (288, 3), (320, 3, 2)]),
            [[(192, 1)], [(192, 1), (224, (1, 3)), (256, (3, 1))]],
            9,
            0.2,
        ),
    ],
}
TOP = {"v1": 0, "v2": 1536}

VARIANTS: dict[str, Variant] = {
    "inception_resnet_v1": Variant(InceptionResNet(version="v1"), size=299),
    "inception_resnet_v2": Variant(InceptionResNet(), size=299),
}
