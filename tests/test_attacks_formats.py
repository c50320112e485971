"""The attacks of damage_formats.py and damage_archives.py, at a small count: nothing but sentences and warnings."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "attacks"))

import damage_archives
import damage_formats


@pytest.mark.no_keras
@pytest.mark.parametrize("subject", damage_formats.SUBJECTS)
def test_damaged_files_are_refused_in_a_sentence_or_read_right(subject):
    counts, crashes = damage_formats.trials(damage_formats.SUBJECTS[subject], 30, seed=1)
    assert not crashes
    # A bare file has no hash: nothing can tell that a bit of a number was turned.
    if subject in ("ours", "pytorch"):
        assert counts["other values"] == counts["warned"] == 0
    assert counts["refused"] >= 5


@pytest.mark.parametrize("subject", damage_archives.SUBJECTS)
def test_damaged_archives_are_refused_in_a_sentence_or_read_right(subject):
    counts, crashes = damage_formats.trials(damage_archives.SUBJECTS[subject], 12, 1, damage_archives.changed)
    assert not crashes
    # Where somebody mends the checksums, other values that are possible are as good as the first.
    if subject in ("packed", "keras", "npz"):
        assert counts["other values"] == counts["warned"] == 0
    assert counts["refused"] >= 2
