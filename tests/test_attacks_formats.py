"""The attacks of tests/attacks/damage_formats.py, at a small count: nothing but sentences and warnings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "attacks"))

import damage_formats

pytestmark = pytest.mark.no_keras


@pytest.mark.parametrize("subject", damage_formats.SUBJECTS)
def test_damaged_files_are_refused_in_a_sentence_or_read_right(subject):
    counts, crashes = damage_formats.trials(subject, 30, seed=1)
    assert not crashes
    # A bare file has no hash: nothing can tell that a bit of a number was turned.
    if subject in ("ours", "pytorch"):
        assert counts["other values"] == counts["warned"] == 0
    assert counts["refused"] >= 5
