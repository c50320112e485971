"""Imports run one way, and what needs no framework imports none."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pytest
import seeded
from safetensors.numpy import save_file

from keras_cnn.checkpoints.convert import timm
from keras_cnn.checkpoints.convert.rename import to_theirs
from keras_cnn.models import registry, shapes
from keras_cnn.models.heads import Head

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "keras_cnn"

# A module may import its own area and those of the levels before it, and nothing else.
LEVELS = (
    ("errors",),
    ("files", "runtime", "terminal"),
    ("models",),
    ("checkpoints", "data", "layers"),
    ("insight",),
    ("tasks",),
    ("hub",),
    ("building",),
    ("deploy",),
    ("transfer",),
    ("training",),
    ("cli",),
)
RANK = {area: rank for rank, areas in enumerate(LEVELS) for area in areas}
ROOT_MODULES = 6  # beside folders and __init__.py
FRAMEWORKS = ("keras", "tensorflow", "torch", "jax")
# Modules that import Keras when they are imported; all others do so where they use it, if at all.
WITH_KERAS = {
    "keras_cnn.data.examples",
    "keras_cnn.deploy.fold",
    "keras_cnn.models.assemble",
    "keras_cnn.models.layers",
}
WITH_KERAS_WHOLLY = {"tasks", "training", "transfer"}


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def area(name: str) -> str:
    """The module or folder right below the package: keras_cnn.hub.card is of hub."""
    return name.split(".")[1]


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported as the file is) for every import statement; those for types only left out."""
    tree = ast.parse(path.read_text())
    typing = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in typing or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        top = node in tree.body
        if isinstance(node, ast.Import):
            yield from ((alias.name, top) for alias in node.names)
        else:
            assert not node.level, f"{path}: relative import"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if node.module == "keras_cnn" or is_module(whole) else str(node.module)), top


def is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def ours(path: Path) -> list[tuple[str, bool]]:
    return [(name, top) for name, top in imports(path) if name.startswith("keras_cnn.") and is_module(name)]


def test_every_module_has_a_level():
    assert {area(dotted(path)) for path in files()} == RANK.keys()


def test_the_root_stays_small():
    assert len(list(PACKAGE.glob("*.py"))) - 1 <= ROOT_MODULES


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_no_file_is_long(path):
    assert len(path.read_text().splitlines()) <= 410


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_imports_go_one_way(path):
    here = area(dotted(path))
    used = {area(name) for name, _ in ours(path)} - {here}
    assert not {other for other in used if RANK[other] >= RANK[here]}


def test_modules_do_not_import_each_other_in_circles():
    graph = {dotted(path): {name for name, top in ours(path) if top} - {dotted(path)} for path in files()}
    packages = {name for name in graph if f"{name}." in "".join(f"{other}\n" for other in graph)}
    flat = {name: {other for other in found if other not in packages} for name, found in graph.items()}
    assert list(TopologicalSorter(flat).static_order())


@pytest.mark.parametrize("path", files(), ids=dotted)
def test_frameworks_are_imported_where_they_are_used(path):
    top = {name.partition(".")[0] for name, top in imports(path) if top} & set(FRAMEWORKS)
    name = dotted(path)
    assert top <= ({"keras"} if name in WITH_KERAS or area(name) in WITH_KERAS_WHOLLY else set())


# --- what a fresh process loads -------------------------------------------------------------------------------------


def python(code: str, *args: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


LOADED = """
import json, sys
from keras_cnn import cli
sys.argv = ["keras-cnn", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as stopped:
    code = stopped.code
print("\\n" + json.dumps([code, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["predict", "-h"],
        ["list"],
        ["info", "resnet50"],
        ["info", "resnet50", "--freeze", "0.5"],
        ["list", "--pretrained", "--json"],
    ],
)
def test_list_and_info_load_no_framework(arguments):
    done = python(LOADED, *arguments)
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert (code or 0, done.stderr) == (0, "")
    assert "keras_cnn" in loaded and not set(loaded) & {*FRAMEWORKS, "tensorflow_datasets", "matplotlib", "sklearn"}


def test_importing_the_package_loads_nothing():
    done = python("import sys, keras_cnn; print(sorted(m for m in sys.modules if m.startswith('keras')))")
    assert done.stdout == "['keras_cnn', 'keras_cnn.runtime']\n", done.stderr


WITHOUT_TENSORFLOW = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].startswith(("tensorflow", "tf_keras")):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import keras
import numpy as np

import keras_cnn as kc
from keras_cnn.checkpoints import arrays

directory, out = sys.argv[1:]
assert keras.backend.backend() == "jax"
keras.utils.set_random_seed(0)
model = kc.build(directory, input_shape=(16, 16, 3), classes=["dark", "light"], freeze="stage3")
assert [layer.name for layer in model.layers if layer.trainable and layer.weights] == ["head_logits"]
before = arrays.arrays(model)
labels = np.arange(16) % 2
images = (labels[:, None, None, None] * 200 + np.zeros((16, 16, 16, 3))).astype("uint8")
history = kc.fine_tune(model, (images, labels), (images, labels), head_epochs=1, epochs=1, above="stage3",
                       batch_size=8, out=out, verbose=0)
after = arrays.arrays(model)
assert len(history.history["loss"]) == 2
changed = {key for key in after if not np.array_equal(after[key], before[key])}
assert changed == {"head_logits/kernel", "head_logits/bias"}
again = kc.build(out)
np.testing.assert_array_equal(model.predict(images, verbose=0), again.predict(images, verbose=0))
assert not [name for name in sys.modules if name.partition(".")[0] == "tensorflow"]
print("done")
"""


@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_the_core_works_on_jax_where_tensorflow_is_not_installed(tmp_path):
    path = tmp_path / "timm"
    path.mkdir()
    config = registry.get("resnet20").with_(head=Head(classes=3))
    state = to_theirs(seeded.arrays(shapes.variables(shapes.tally(config))), config.backbone, timm.FORMAT)
    save_file({key: np.ascontiguousarray(value) for key, value in state.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"architecture": "resnet20", "num_classes": 3}))
    done = python(WITHOUT_TENSORFLOW, str(path), str(tmp_path / "out"), KERAS_BACKEND="jax", JAX_PLATFORMS="cpu")
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-3000:]
