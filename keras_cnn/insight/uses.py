"""Every use of a layer in a network, nested models opened up, with what comes before and behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from keras_cnn.insight.graphs import calls, graph_of, walkable


@dataclass(eq=False)
class Use:
    """One call of a layer.

    name: of the layer; in a nested model "model/layer". before, behind: the uses that it takes from and gives to.
    inputs, output: symbolic tensors. ends: whether its output is one of the model's. training: what it, or the nested
    model that it is in, was called with; None where nobody said. twins: all uses of the same layer, this one as well.
    """

    name: str
    layer: Any
    before: list[Use]
    inputs: list[Any]
    output: Any
    training: bool | None = None
    ends: bool = False
    behind: list[Use] = field(default_factory=list)
    twins: list[Use] = field(default_factory=list)

    def of(self, *kinds: str) -> bool:
        """Whether the layer is of one of these classes of Keras', or derives from one."""
        return any(kind.__name__ in kinds for kind in type(self.layer).__mro__)

    @property
    def only(self) -> bool:
        """Whether the layer is used here alone, and its output by one other layer alone."""
        return len(self.behind) == 1 and not self.ends and len(self.twins) == 1


def uses(model: Any) -> list[Use]:
    """All uses of layers in a functional or built sequential model, each behind those that it takes from."""
    graph = walkable(model)
    inputs = [Use(t._keras_history.operation.name, t._keras_history.operation, [], [], t) for t in graph.inputs]
    found = list(inputs)
    for last in _walk(graph, inputs, "", None, found):
        last.ends = True
    twins: dict[int, list[Use]] = {}
    for use in found:
        use.twins = twins.setdefault(id(use.layer), [])
        use.twins.append(use)
        for earlier in use.before:
            earlier.behind.append(use)
    return found


def _walk(model: Any, given: Sequence[Use], prefix: str, training: bool | None, found: list[Use]) -> list[Use]:
    """Note every use in a model; returns those that give the model's outputs, from those that give its inputs."""
    made = {id(tensor): use for tensor, use in zip(model.inputs, given, strict=True)}
    for node in calls(model.outputs, {id(t) for t in model.inputs}):
        layer, name = node.operation, prefix + node.operation.name
        before = [made[id(tensor)] for tensor in node.input_tensors]
        told = node.arguments.kwargs.get("training")
        told = training if told is None else told
        if (graph := graph_of(layer)) is not None:
            results = _walk(graph, before, f"{name}/", told, found)
        else:
            found.append(Use(name, layer, before, list(node.input_tensors), node.outputs[0], told))
            results = found[-1:] * len(node.outputs)
        made |= {id(tensor): use for tensor, use in zip(node.outputs, results, strict=True)}
    return [made[id(tensor)] for tensor in model.outputs]


def upwards(use: Use) -> Iterator[Use]:
    """What comes before a use, as long as there is one thing: the nearest first."""
    while len(use.before) == 1:
        use = use.before[0]
        yield use
