"""Who may know what: names of layers, private parts of Keras, what outputs mean, the package's own public names."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_cnn"
pytestmark = pytest.mark.no_keras

TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


def found(look) -> set[tuple[str, str]]:
    """(file, what is found) over all nodes of all files."""
    return {(name, text) for name, tree in TREES.items() for node in ast.walk(tree) for text in look(node)}


# --- names of layers ------------------------------------------------------------------------------------------------

TAKES_APART = {"startswith", "endswith", "partition", "rpartition", "split", "rsplit", "removeprefix", "removesuffix"}
TAKES_APART |= {"match", "fullmatch", "search", "compile"}
GRAMMAR = re.compile(r"_|_?(stage|stem|decoder|head|aux|fuse)([_/\d\\\[].*)?")
# Where such a word is none of a layer's name.
OF_OTHERS = {
    ("checkpoints/convert/inception.py", "split _"),  # keys of its own tables
}


def taken_apart(node: ast.AST) -> Iterator[str]:
    """Calls and comparisons that look into a text by a token of our names."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in TAKES_APART:
        texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        yield from (f"{node.func.attr} {text}" for text in texts if GRAMMAR.fullmatch(text))
    if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.In) and isinstance(node.left, ast.Constant):
        text = node.left.value
        if isinstance(text, str) and GRAMMAR.fullmatch(text) and ("_" in text or "/" in text):
            yield f"in {text}"


def compared(node: ast.AST) -> Iterator[str]:
    """Comparisons of a layer's stage with a word."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        if any("stage_of(" in ast.unparse(side) for side in sides):
            words = (inner for side in sides for inner in ast.walk(side) if isinstance(inner, ast.Constant))
            yield from (str(word.value) for word in words if isinstance(word.value, str))


def test_naming_alone_knows_what_a_stage_is():
    assert {file for file, _ in found(compared)} == {"models/naming.py"}


def test_naming_alone_takes_names_of_layers_apart():
    known = found(taken_apart)
    here = {file for file, _ in known}
    assert "models/naming.py" in here, "the test sees nothing"
    assert {one for one in known if one[0] != "models/naming.py"} == OF_OTHERS


# --- private parts of others ----------------------------------------------------------------------------------------

# Where no public way is: (file, name): why.
PRIVATE = {
    ("deploy/fold.py", "_flatten_layers"): "layers of models within models",
    ("insight/effective_fields.py", "_inbound_nodes"): "which tensors a layer gave",
    ("insight/graphs.py", "_functional"): "the graph that a Sequential stands for",
    ("insight/graphs.py", "_inbound_nodes"): "the calls of a graph",
    ("insight/graphs.py", "_keras_history"): "which call gave a tensor",
    ("insight/receptive_fields.py", "_keras_history"): "which call gave a tensor",
    ("insight/uses.py", "_keras_history"): "which call gave a tensor",
    ("models/assemble.py", "_handle_name"): "a variable that is there cannot be named",
    ("models/layers.py", "_compute_causal_padding"): "what Conv1D pads by",
    ("tasks/labelled.py", "_inputs"): "what a data set of tf.data is made of",
    ("training/distribution.py", "_distribute_strategy"): "whether a model was built under a strategy",
    ("training/distribution.py", "_symbolic_build"): "builds under a strategy, which Keras forgets",
    ("training/distribution.py", "keras.src.backend.tensorflow"): "the same",
    ("training/logs.py", "_writers"): "Keras' TensorBoard flushes at the end of the training only",
    # of others than Keras
    ("deploy/listening.py", "_unset_keepalive_if_required"): "uvicorn's protocol has no way to refuse a request",
    ("tasks/labelled.py", "_getframe"): "documented by Python: a warning names the caller's line",
    ("training/doctor.py", "_pywrap_util_port"): "TensorFlow tells nowhere else whether oneDNN is on",
}
DOCUMENTED = {"_asdict", "_replace", "_fields"}  # of named tuples


def own_names() -> set[str]:
    """Names that this package defines."""

    def look(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr

    return {name for _, name in found(look)}


def private(node: ast.AST) -> Iterator[str]:
    names = []
    if isinstance(node, ast.Attribute):
        names = [node.attr]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
        names = [a.value for a in node.args[1:2] if isinstance(a, ast.Constant)]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [alias.name for alias in node.names]
        if node.module.startswith("keras.src"):
            yield node.module
    yield from (name for name in names if re.fullmatch(r"_[a-z]\w*", str(name)))


def test_private_parts_of_others_are_named_here_with_the_reason():
    own = own_names() - {"_handle_name"}  # which is set on TensorFlow's variable
    used = {(file, name) for file, name in found(private) if name not in own | DOCUMENTED}
    assert used == PRIVATE.keys()


# --- what is said of other parts --------------------------------------------------------------------------------------

ELSEWHERE = {"kc", "keras", "keras_cnn", "model", "os", "safetensors", "tf", "torch"}
FILES = {"csv", "html", "json", "png", "py", "safetensors", "txt"}  # of runs, data sets and other projects


def defined() -> set[str]:
    """Every "module.name", and every folder's modules."""
    known = set()
    for file, tree in TREES.items():
        *folders, module = file.removesuffix(".py").split("/")
        names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef)]
        targets = [
            t for n in tree.body for t in (n.targets if isinstance(n, ast.Assign) else [getattr(n, "target", 0)])
        ]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
        names += [alias.name for n in tree.body if isinstance(n, ast.ImportFrom) for alias in n.names]
        module = folders.pop() if module == "__init__" and folders else module
        known |= {f"{module}.py", *(f"{module}.{name}" for name in names), ".".join([*folders, module])}
        known |= {".".join([*folders, module, name]) for name in names}
    return known


def test_what_comments_and_docstrings_name_is_there():
    known = defined()
    dotted = re.compile(r"`([a-z_]\w*(?:\.\w+)+)`")
    said = {(file, name) for file in TREES for name in dotted.findall((PACKAGE / file).read_text(encoding="utf-8"))}
    ours = {
        (file, name) for file, name in said if name.split(".")[0] not in ELSEWHERE and name.split(".")[-1] not in FILES
    }
    assert len(ours) > 30, "the test sees nothing"
    assert not {(file, name) for file, name in ours if name not in known}


# --- public names ---------------------------------------------------------------------------------------------------


def test_only_the_command_line_uses_the_package_as_users_do():
    """Others would import what stands above them, behind the back of the order of imports."""
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in TREES}
    modules |= {name.partition(".")[0] for name in modules}

    def look(node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name == "keras_cnn")
        elif isinstance(node, ast.ImportFrom) and node.module == "keras_cnn":
            yield from (alias.name for alias in node.names if alias.name not in modules)

    used = found(look)
    assert used, "the test sees nothing"
    assert {file.partition("/")[0] for file, _ in used} == {"cli"}
