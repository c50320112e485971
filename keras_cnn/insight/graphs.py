"""The graph of a functional model, walked and run call by call: watched, changed, or ended before its last activation.

`keras.Model(inputs=a map inside, outputs=...)` would do the like, but writes new calls into the layers of the given
model, cannot reach into nested ones, and wants all tensors named that cross the cut.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_cnn.errors import BadSpec

Place = tuple[Any, ...]  # of a call: Keras' nodes from the model's own down to one in a nested model


def graph_of(model: Any) -> Any:
    """The functional model that a model is, or that a sequential one holds once it is built; None for others."""
    graph = getattr(model, "_functional", model)
    return graph if hasattr(graph, "operations") else None


def walkable(model: Any) -> Any:
    """The same; BadSpec for a model that has no graph."""
    graph = graph_of(model)
    if isinstance(model, str):
        raise BadSpec(f"{model!r} is a name: give the model itself, such as kc.build({model!r}).")
    if graph is None:
        raise BadSpec(
            f"{getattr(model, 'name', model)!r} has no graph to walk: give a functional model, or a sequential one "
            "that is built; a subclassed model hides what calls what."
        )
    return graph


def calls(outputs: Sequence[Any], known: set[int]) -> list[Any]:
    """The calls that lead to these symbolic tensors, each behind those that it needs, up to tensors with known ids."""
    known, order, open_ = set(known), [], list(reversed(outputs))
    while open_:
        tensor = open_[-1]
        if id(tensor) in known:
            open_.pop()
            continue
        node = call_of(tensor)
        missing = [t for t in node.input_tensors if id(t) not in known]
        if missing:
            open_ += reversed(missing)
            continue
        order.append(node)
        known |= {id(t) for t in node.outputs}
    return order


def call_of(tensor: Any) -> Any:
    """The call that makes a symbolic tensor; Keras has no public way to it."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def run(
    model: Any,
    inputs: Sequence[Any],
    outputs: Sequence[Any] | None = None,
    *,
    seen: Callable[[Place, Any], None] = lambda place, tensor: None,
    instead: Mapping[Place, Any] | None = None,
    linear: Place | None = None,
    of: Callable[[Any], Any] = lambda operation: operation,
    outer: Place = (),
) -> list[Any]:
    """What a functional model makes of its inputs, as at prediction, on any backend; layers are called one by one.

    outputs: the model's symbolic tensors that are wanted; by default all its outputs. seen: is told the first output of
    every call. instead: tensors in the place of the first output of calls; what only these needed is not computed.
    linear: the call whose activation is left out. of: what is called in the place of an operation. outer: the call by
    which the model stands in another one.
    """
    graph, instead = graph_of(model), instead or {}
    wanted: Sequence[Any] = graph.outputs if outputs is None else outputs
    given = {place[-1]: tensor for place, tensor in instead.items() if place[:-1] == outer}
    values = {id(symbol): tensor for symbol, tensor in zip(graph.inputs, inputs, strict=True)}
    values |= {id(node.outputs[0]): tensor for node, tensor in given.items()}
    for node in calls(wanted, set(values)):
        place, operation = (*outer, node), node.operation
        args, kwargs = node.arguments.fill_in(values)
        if graph_of(operation) is not None:
            taken = [values[id(tensor)] for tensor in node.input_tensors]
            results = run(operation, taken, seen=seen, instead=instead, linear=linear, of=of, outer=place)
        else:
            operation = of(operation)
            results = _flat((without_activation(operation) if place == linear else operation)(*args, **kwargs))
        values |= {id(symbol): tensor for symbol, tensor in zip(node.outputs, results, strict=True)}
        seen(place, results[0])
    return [values[id(tensor)] for tensor in wanted]


def last_call(tensor: Any, outer: Place = ()) -> Place:
    """Where a symbolic output is made, in a nested model too."""
    node = call_of(tensor)
    graph = graph_of(node.operation)
    if graph is None:
        return (*outer, node)
    index = next(i for i, output in enumerate(node.outputs) if output is tensor)
    return last_call(graph.outputs[index], (*outer, node))


def narrows(model: Any, outputs: Sequence[Any] | None = None, outer: Place = ()) -> set[Place]:
    """The calls through which all goes that leads to the outputs: no branch, and no skip, leads around them."""
    graph = graph_of(model)
    wanted: Sequence[Any] = graph.outputs if outputs is None else outputs
    order = calls(wanted, {id(tensor) for tensor in graph.inputs})
    last = {id(tensor): i for i, node in enumerate(order) for tensor in node.input_tensors}
    last |= {id(tensor): len(order) for tensor in wanted}
    crossing, found = {id(tensor) for tensor in graph.inputs}, set[Place]()
    for i, node in enumerate(order):
        crossing = {tensor for tensor in crossing | {id(t) for t in node.outputs} if last.get(tensor, -1) > i}
        if crossing == {id(node.outputs[0])}:
            found.add((*outer, node))
            if graph_of(node.operation) is not None:
                found |= narrows(node.operation, outer=(*outer, node))
    return found


def pads(operation: Any) -> bool:
    """Whether an operation only puts zeros around maps."""
    return type(operation).__name__ in ("Pad", "ZeroPadding2D")


def name_of(place: Place) -> str:
    """The layer's name; of a nested model's "model/layer"."""
    return "/".join(node.operation.name for node in place)


def activation_name(operation: Any) -> str:
    """What an operation ends in: the name of its activation, or its own."""
    activation = getattr(operation, "activation", None) or operation
    return getattr(activation, "__name__", type(activation).__name__).lower()


def without_activation(operation: Any) -> Callable[..., Any]:
    """The same without its activation, the weights shared; an activation itself gives what it takes."""
    if getattr(operation, "activation", None) is None:
        return lambda x, *args, **kwargs: x
    import keras

    bare = object.__new__(type(operation))  # copy.copy would save and load the layer
    vars(bare).update(vars(operation), activation=keras.activations.linear)
    return bare


def array(tensor: Any) -> np.ndarray:
    """A backend's tensor as float32 in NumPy."""
    import keras

    return np.asarray(keras.ops.convert_to_numpy(tensor), "float32")


def _flat(tensors: Any) -> list[Any]:
    import keras

    return keras.tree.flatten(tensors)
