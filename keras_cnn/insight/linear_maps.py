"""Convolutions and transposed convolutions, written out as the sparse matrices that they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_cnn.errors import BadSpec
from keras_cnn.insight.windows import extent, same_padding
from keras_cnn.models.fields import known_options, one_of

if TYPE_CHECKING:
    from scipy import sparse

Sides = int | Sequence[int]  # one number for all axes, or one an axis
PADDINGS = ("valid", "same")


@known_options
def conv_matrix(
    kernel: Any,
    input_shape: Sequence[int],
    strides: Sides = 1,
    padding: str = "valid",
    dilation: Sides = 1,
    groups: int = 1,
) -> sparse.csr_array:
    """The matrix M of a convolution: `(M @ x.ravel()).reshape(output_shape)` is `keras.ops.conv` of one example x.

    Its transpose is the transposed convolution, which spreads where the convolution gathers, and which is what carries
    gradients backwards (Dumoulin and Visin, 1603.07285, section 4.1). Shape (positions and channels out, positions and
    channels in), row-major, in the kernel's dtype; only entries that a kernel reaches are stored, each weight of it
    once for every position.

    kernel: in Keras' layout, (width, in / groups, out) or (height, width, in / groups, out).
    input_shape: of one example, channels last: (steps, in) or (height, width, in).
    strides, dilation: one number, or one an axis; both above 1 is well defined here, though Keras refuses it.
    padding: "valid", or "same" as TensorFlow has it, the odd zero at the end.
    groups: channels in as many groups, each of which has its own filters; as many as channels is a depthwise one.
    Raises BadSpec for shapes that do not fit together, and where no output would be left.

    >>> import numpy as np
    >>> from keras_cnn.insight import conv_matrix
    >>> conv_matrix(np.array([1, 2, 3]).reshape(3, 1, 1), (5, 1)).toarray()
    array([[1, 2, 3, 0, 0],
           [0, 1, 2, 3, 0],
           [0, 0, 1, 2, 3]])
    """
    from scipy import sparse

    kernel = np.asarray(kernel)
    entries = _entries(kernel.shape, input_shape, strides, padding, dilation, groups)
    values = kernel.ravel()[entries.weights]
    return sparse.csr_array((values, (entries.rows, entries.columns)), shape=entries.shape)


@known_options
def kernel_gradient(
    matrix_gradient: Any,
    kernel_shape: Sequence[int],
    input_shape: Sequence[int],
    strides: Sides = 1,
    padding: str = "valid",
    dilation: Sides = 1,
    groups: int = 1,
) -> np.ndarray:
    """The gradient of a kernel from that of its matrix: the sum over all entries that are copies of one weight.

    A weight that is used n times moves the loss by each use, so that the chain rule adds up; this is what automatic
    differentiation gives. The average, which is sometimes taught, is this sum divided by n: the same direction with a
    step n times smaller, where every weight is used as often, as with padding="valid". With "same" the weights at a
    kernel's border meet the zeros outside and are used less often, so that an average would also turn the direction.
    The gradient of a matrix of ones is n itself: `kernel_gradient(np.ones(matrix.shape), ...)`.

    matrix_gradient: dense or scipy.sparse, of the matrix's shape; of y = M x it is `np.outer(gradient of y, x)`.
        Entries that no weight reaches are not looked at.
    kernel_shape, and the further ones: as of `conv_matrix`.
    Returns an array of the kernel's shape, float64. Raises BadSpec for shapes that do not fit together.
    """
    entries = _entries(tuple(kernel_shape), input_shape, strides, padding, dilation, groups)
    if tuple(np.shape(matrix_gradient)) != entries.shape:
        raise BadSpec(f"matrix_gradient has the shape {np.shape(matrix_gradient)}: this matrix has {entries.shape}.")
    indexed = matrix_gradient.tocsr() if hasattr(matrix_gradient, "tocsr") else np.asarray(matrix_gradient)
    found = np.asarray(indexed[entries.rows, entries.columns]).ravel()
    return np.bincount(entries.weights, found, math.prod(kernel_shape)).reshape(kernel_shape)


@known_options
def transposed_as_convolution(
    kernel: Any, input_shape: Sequence[int], strides: Sides = 1, padding: str = "valid", dilation: Sides = 1
) -> tuple[sparse.csr_array, sparse.csr_array]:
    """A transposed convolution in two steps: (insertion, convolution), whose product is `keras.ops.conv_transpose`.

    The insertion puts strides - 1 zeros between positions and zeros around them; the convolution then goes over that
    in steps of 1 with the kernel turned around, its channels swapped (1603.07285, section 4.6). So a transposed
    convolution is an upsampling, by zeros, followed by an ordinary convolution.

    kernel: in Keras' layout for them, (..., out, in). input_shape, strides, padding, dilation: as of `conv_matrix`,
        the input being the small map.
    Raises BadSpec for shapes that do not fit together. The output's shape is `transposed_output_shape`.
    """
    from scipy import sparse

    kernel = np.asarray(kernel)
    small = _example(input_shape, kernel.ndim)
    if small[-1] != kernel.shape[-1]:
        raise BadSpec(
            f"input_shape={small}: its {small[-1]} channels are not the {kernel.shape[-1]} of the kernel "
            f"{kernel.shape}, whose axes are (..., out, in)."
        )
    axes = kernel.ndim - 2
    large = transposed_output_shape(kernel.shape, input_shape, strides, padding, dilation)
    steps, apart = _sides("strides", strides, axes), _sides("dilation", dilation, axes)
    wide, places = [], []
    for axis, (size, step, gap) in enumerate(zip(kernel.shape[:axes], steps, apart, strict=True)):
        window = extent(size, gap)
        cut = same_padding(large[axis], window, step)[0] if padding == "same" else 0
        wide.append(large[axis] + window - 1)
        places.append(window - 1 - cut + step * np.arange(small[axis]))
    wide.append(small[-1])
    places.append(np.arange(small[-1]))
    rows = np.ravel_multi_index(np.meshgrid(*places, indexing="ij"), wide).ravel()
    insertion = sparse.csr_array(
        (np.ones(rows.size, kernel.dtype), (rows, np.arange(rows.size))), shape=(math.prod(wide), rows.size)
    )
    turned = np.flip(kernel, tuple(range(axes))).swapaxes(-1, -2)
    return insertion, conv_matrix(turned, wide, dilation=apart)


@known_options
def transposed_output_shape(
    kernel_shape: Sequence[int],
    input_shape: Sequence[int],
    strides: Sides = 1,
    padding: str = "valid",
    dilation: Sides = 1,
) -> tuple[int, ...]:
    """What a transposed convolution of one example gives: strides * n positions with "same"; with "valid" further
    window - strides, where the window (kernel - 1) * dilation + 1 is longer. Several inputs of a strided convolution
    have outputs of one size, so that the way back is not unique: this is Keras' choice without `output_padding`.

    kernel_shape: (..., out, in); the others as of `transposed_as_convolution`.
    """
    axes = len(kernel_shape) - 2
    one_of("padding", padding, PADDINGS)
    small = _example(input_shape, axes + 2)
    sides = zip(small, kernel_shape, _sides("strides", strides, axes), _sides("dilation", dilation, axes), strict=False)
    grown = (n * s + (max(extent(k, d) - s, 0) if padding == "valid" else 0) for n, k, s, d in sides)
    return (*grown, kernel_shape[-2])


@known_options
def checkerboard(kernel: Sides, strides: Sides) -> np.ndarray:
    """How many inputs reach each output of a transposed convolution, far from borders: the array repeats over its map.

    Where the stride does not divide the kernel, outputs take turns, and equal weights draw a checkerboard into them
    (Odena et al. 2016, distill.pub, "Deconvolution and checkerboard artifacts"). A kernel of twice the stride avoids
    it, as does one of the stride itself, which U-Net's `upsample="transposed"` has, and as does an upsampling by
    nearest or bilinear followed by a convolution.

    kernel, strides: one number for height and width, or one an axis: (3,) and (2,) for sequences.
    Returns whole numbers of the shape `strides`; their sum is the number of weights of a filter.

    >>> from keras_cnn.insight import checkerboard
    >>> checkerboard(3, 2).tolist(), checkerboard(4, 2).tolist()
    ([[4, 2], [2, 1]], [[4, 4], [4, 4]])
    """
    axes = next((len(value) for value in (kernel, strides) if not isinstance(value, int | np.integer)), 2)
    windows, steps = _sides("kernel", kernel, axes), _sides("strides", strides, axes)
    reached = [np.bincount(np.arange(k) % s, minlength=s) for k, s in zip(windows, steps, strict=True)]
    return math.prod(np.ix_(*reached)) * np.ones(steps, int)


@dataclass(frozen=True)
class _Entries:
    """Where the weights of a kernel stand in the matrix: weight `weights[i]` at `rows[i]`, `columns[i]`."""

    rows: np.ndarray
    columns: np.ndarray
    weights: np.ndarray
    shape: tuple[int, int]


def _entries(
    kernel_shape: tuple[int, ...],
    input_shape: Sequence[int],
    strides: Sides,
    padding: str,
    dilation: Sides,
    groups: int,
) -> _Entries:
    example, (*window, fan_in, filters) = _example(input_shape, len(kernel_shape)), kernel_shape
    *lengths, channels = example
    one_of("padding", padding, PADDINGS)
    if groups < 1 or channels != fan_in * groups or filters % groups:
        raise BadSpec(
            f"groups={groups}: {channels} channels and the kernel {kernel_shape} do not fit. The channels have to be "
            f"groups * {fan_in}, and groups has to divide the {filters} filters."
        )
    steps, apart = _sides("strides", strides, len(window)), _sides("dilation", dilation, len(window))
    axes = [_axis(*axis, padding) for axis in zip(lengths, window, steps, apart, strict=True)]
    if not all(len(seen) for seen in axes):
        raise BadSpec(f"input_shape={example}: it is smaller than the window of the kernel {kernel_shape}.")

    # Axes of everything below: an output position each, then an entry of the window each, then channel, then filter.
    count = len(window)
    outputs = [len(seen) for seen in axes]
    grid = np.ix_(*map(np.arange, (*outputs, *window, fan_in, filters)))
    at, taps, channel, filter_ = grid[:count], grid[count : 2 * count], grid[-2], grid[-1]
    positions = [seen[a, t] for seen, a, t in zip(axes, at, taps, strict=True)]
    inside = math.prod((p >= 0) & (p < n) for p, n in zip(positions, lengths, strict=True))
    channel_in = filter_ // (filters // groups) * fan_in + channel
    shape = (*outputs, filters)
    sizes = (*window, fan_in, filters)
    place = [
        np.ravel_multi_index(np.broadcast_arrays(*index), sides, mode="clip")
        for index, sides in (
            ((*at, filter_), shape),
            ((*positions, channel_in), example),
            ((*taps, channel, filter_), sizes),
        )
    ]
    rows, columns, weights, kept = (part.ravel() for part in np.broadcast_arrays(*place, inside))
    kept = kept.astype(bool)
    return _Entries(rows[kept], columns[kept], weights[kept], (math.prod(shape), math.prod(example)))


def _axis(length: int, size: int, stride: int, dilation: int, padding: str) -> np.ndarray:
    """The input position of every (output position, entry of the window); beyond the ends it is a zero of padding."""
    window = extent(size, dilation)
    before, behind = same_padding(length, window, stride) if padding == "same" else (0, 0)
    outputs = max((length + before + behind - window) // stride + 1, 0)
    return stride * np.arange(outputs)[:, None] - before + dilation * np.arange(size)


def _example(input_shape: Sequence[int], rank: int) -> tuple[int, ...]:
    shape = tuple(input_shape)
    if (
        rank not in (3, 4)
        or len(shape) != rank - 1
        or not all(isinstance(n, int | np.integer) and n > 0 for n in shape)
    ):
        raise BadSpec(
            f"input_shape={shape} and a kernel of {rank} axes: give (steps, channels) with a kernel of 3 axes, or "
            "(height, width, channels) with one of 4; the batch is left out."
        )
    return tuple(map(int, shape))


def _sides(name: str, value: Sides, axes: int) -> tuple[int, ...]:
    sides = (value,) * axes if isinstance(value, int | np.integer) else tuple(value)
    if len(sides) != axes or not all(isinstance(n, int | np.integer) and n > 0 for n in sides):
        raise BadSpec(f"{name}={value!r}: give a whole number from 1, or {axes} of them, one an axis.")
    return tuple(map(int, sides))
