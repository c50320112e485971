"""Shared by all tests: quiet TensorFlow, where the real data is, and a fixed seed."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest

SHARED = Path(__file__).parents[1] / "shared"
if not SHARED.is_dir():
    SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture
def shared() -> Path:
    """Real images and checkpoints beside the checkout; tests that need them skip where they are absent."""
    if not SHARED.is_dir():
        pytest.skip("the folder shared/ with real images and checkpoints is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _seed() -> None:
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    import keras

    keras.backend.clear_session()
