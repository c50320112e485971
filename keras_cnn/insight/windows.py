"""How a window slides along one axis: the arithmetic that convolutions and pools share."""

from __future__ import annotations


def extent(kernel: int, dilation: int = 1) -> int:
    """Positions from a window's first entry to its last, both counted: those of a dilated one lie apart."""
    return (kernel - 1) * dilation + 1


def same_padding(length: int | None, window: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind an axis with which "same" gives ceil(length / stride) positions; the odd one is behind.

    window: its extent. length: None stands for any multiple of the stride.
    """
    excess = (-length) % stride if length is not None else 0
    total = max(window - stride + excess, 0)
    return total // 2, total - total // 2
