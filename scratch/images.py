"""Layers that take images, `[H, C, W, N]`: height, channels, width, and the batch last.

In this order a convolution copies nothing. Of a batch, what a row of the outputs sees through one column of the kernel is a
matrix as it lies in memory, `[kernel * C, W * N]` (kernel rows of all channels, by columns of all images), so that a row
is as many matrix products as the kernel has columns, in numbers that a core's cache holds. And the 128 images of a batch,
last, fill the processor's registers in every operation.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from scratch.buffers import Array, Buffer
from scratch.products import is_small


class ToImages:
    """`[N, C * H * W]`, in the order channel, row, column, to `[H, C, W, N]`."""

    size = 0
    overwrites = False

    def __init__(self, channels: int, height: int, width: int) -> None:
        self._shape = channels, height, width
        self._outputs = Buffer()
        self._inputs_gradient = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        channels, height, width = self._shape
        number = len(inputs)
        outputs = self._outputs.shaped((height, channels, width, number), inputs.dtype)
        outputs[:] = inputs.reshape(number, channels, height, width).transpose(2, 1, 3, 0)
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        if not inputs_too:
            return gradient
        return _rows_of_images(gradient, self._inputs_gradient)


class Flatten:
    """`[H, C, W, N]` to `[N, C * H * W]`, in the order channel, row, column."""

    size = 0
    overwrites = False

    def __init__(self) -> None:
        self._outputs = Buffer()
        self._inputs_gradient = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        self._shape = inputs.shape
        return _rows_of_images(inputs, self._outputs)

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        if not inputs_too:
            return gradient
        height, channels, width, number = self._shape
        inputs_gradient = self._inputs_gradient.shaped(self._shape, gradient.dtype)
        inputs_gradient[:] = gradient.reshape(number, channels, height, width).transpose(2, 1, 3, 0)
        return inputs_gradient


class Conv:
    """Each output is a filter's sum over a square of all channels, plus the filter's bias: cross-correlation, stride 1.

    Attributes:
        weight: `[filters, channels, kernel, kernel]`, rows before columns.
        bias: `[filters]`, empty where there is none.
    """

    overwrites = False

    def __init__(
        self, channels: int, filters: int, kernel: int, height: int, width: int, padding: int, bias: bool
    ) -> None:
        self.channels = channels
        self.filters = filters
        self.kernel = kernel
        self.height = height
        self.width = width
        self.padding = padding
        self.out_height = height + 2 * padding - kernel + 1
        self.out_width = width + 2 * padding - kernel + 1
        self.size = filters * channels * kernel**2 + (filters if bias else 0)
        self.fan_in = channels * kernel**2
        self.fan_out = filters * kernel**2
        self._padded: Array = np.zeros((0, 0, 0, 0))
        self._outputs = Buffer()
        self._inputs_gradient = Buffer()
        self._products = Buffer()

    def bind(self, parameters: Array, gradients: Array) -> None:
        split = self.filters * self.channels * self.kernel**2
        shape = self.filters, self.channels, self.kernel, self.kernel
        self.weight = parameters[:split].reshape(shape)
        self.bias = parameters[split:]
        self.weight_gradient = gradients[:split].reshape(shape)
        self.bias_gradient = gradients[split:]

    def forward(self, inputs: Array) -> Array:
        number = inputs.shape[-1]
        self._inputs = self._pad(inputs)
        outputs = self._outputs.shaped((self.out_height, self.filters, self.out_width, number), inputs.dtype)
        product = self._products.shaped(outputs.shape[1:], inputs.dtype)
        # One matrix for each column of the kernel, [filters, kernel * C].
        columns = self.weight.transpose(3, 0, 2, 1).reshape(self.kernel, self.filters, -1)
        # A whole row of outputs by one product, or, where only that makes the products small, by one for each of its pixels.
        of_pixel = columns[0].size * number
        pieces = self.out_width if is_small(of_pixel) and not is_small(of_pixel * self.out_width) else 1
        for row, out in enumerate(outputs):
            for column, (matrix, seen) in enumerate(zip(columns, self._seen(row), strict=True)):
                target = product if column else out
                np.matmul(matrix, _pieces(seen, pieces), out=_pieces(target, pieces))
                if column:
                    out += product
            if len(self.bias):
                out += self.bias[:, None, None]
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        rows = gradient.reshape(self.out_height, self.filters, -1)
        columns: Array = np.zeros((self.kernel, self.kernel * self.channels, self.filters), gradient.dtype)
        product = np.empty_like(columns[0])
        for row in range(self.out_height):
            for column, seen in zip(columns, self._seen(row), strict=True):
                column += np.matmul(seen, rows[row].T, out=product)  # faster than its transpose
        shape = self.kernel, self.kernel, self.channels, self.filters
        self.weight_gradient[:] = columns.reshape(shape).transpose(3, 2, 1, 0)
        if len(self.bias):
            np.sum(rows, axis=(0, 2), out=self.bias_gradient)
        return self._gradient_of_inputs(gradient) if inputs_too else gradient

    def _pad(self, inputs: Array) -> Array:
        """The inputs, with `padding` zeros on every side."""
        if not self.padding:
            return inputs
        shape = (
            self.height + 2 * self.padding,
            self.channels,
            self.width + 2 * self.padding,
            inputs.shape[-1],
        )
        if self._padded.shape != shape or self._padded.dtype != inputs.dtype:
            self._padded = np.zeros(shape, inputs.dtype)
        inside = slice(self.padding, self.padding + self.height), slice(self.padding, self.padding + self.width)
        self._padded[inside[0], :, inside[1]] = inputs
        return self._padded

    def _seen(self, row: int) -> list[Array]:
        """What a row of the outputs sees through each column of the kernel: `[kernel * C, W * N]`, views of the inputs."""
        number = self._inputs.shape[-1]
        rows = self._inputs[row : row + self.kernel].reshape(self.kernel * self.channels, -1)
        span = self.out_width * number
        return [rows[:, column * number : column * number + span] for column in range(self.kernel)]

    def _gradient_of_inputs(self, gradient: Array) -> Array:
        """A row of the inputs was seen by `kernel` rows of the outputs: one product over them for all columns of the kernel,
        [kernel * C, W * N], of which each column's part is added where that column lay."""
        number = gradient.shape[-1]
        kernel, padding = self.kernel, self.padding
        total = self._inputs_gradient.shaped((self.height, self.channels, self.width, number), gradient.dtype)
        # The last row of the kernel first, as it belongs to the first of the rows of outputs.
        weight = self.weight.transpose(3, 1, 2, 0)[:, :, ::-1].reshape(kernel * self.channels, kernel * self.filters)
        rows = gradient.reshape(self.out_height * self.filters, -1)
        products = self._products.shaped((kernel * self.channels, self.out_width * number), gradient.dtype)
        parts = products.reshape(kernel, self.channels, self.out_width, number)
        for row in range(self.height):
            first = row + padding - kernel + 1
            low, high = max(first, 0), min(first + kernel, self.out_height)
            matrix = weight[:, (low - first) * self.filters : (high - first) * self.filters]
            np.matmul(matrix, rows[low * self.filters : high * self.filters], out=products)
            total[row] = 0
            for column, part in enumerate(parts):
                start = column - padding
                left, right = max(0, -start), min(self.out_width, self.width - start)
                total[row, :, start + left : start + right] += part[:, left:right]
        return total


class MaxPool:
    """The largest of each square of `size` by `size`, which do not overlap; rows and columns left over are cut off.

    Of equal ones the first, row by row, is given the gradient.
    """

    overwrites = True

    def __init__(self, size: int) -> None:
        self.size = 0
        self.square = size
        self._outputs = Buffer()
        self._larger: list[npt.NDArray[np.bool_]] = []

    def bind(self, parameters: Array, gradients: Array) -> None:
        pass

    def forward(self, inputs: Array) -> Array:
        height, channels, width, number = inputs.shape
        shape = height // self.square, channels, width // self.square, number
        outputs = self._outputs.shaped(shape, inputs.dtype)
        first, *others = self._corners(inputs)
        outputs[:] = first
        self._inputs = inputs
        self._larger = []  # than all corners before it, for each but the first
        for corner in others:
            self._larger.append(corner > outputs)
            np.maximum(outputs, corner, out=outputs)
        return outputs

    def backward(self, gradient: Array, *, inputs_too: bool = True) -> Array:
        inputs_gradient = self._inputs
        rows, columns = (side * self.square for side in (gradient.shape[0], gradient.shape[2]))
        inputs_gradient[rows:] = 0
        inputs_gradient[:, :, columns:] = 0
        first, *others = self._corners(inputs_gradient)
        for corner, larger in zip(reversed(others), reversed(self._larger), strict=True):
            np.multiply(gradient, larger, out=corner)
            gradient -= corner  # what is left for the corners before it: all or nothing
        first[:] = gradient
        return inputs_gradient

    def _corners(self, images: Array) -> list[Array]:
        """The first of every square, then the second, row by row: views `[H / size, C, W / size, N]`."""
        height, width = (side // self.square * self.square for side in (images.shape[0], images.shape[2]))
        return [
            images[row : height : self.square, :, column : width : self.square]
            for row in range(self.square)
            for column in range(self.square)
        ]


def _rows_of_images(images: Array, buffer: Buffer) -> Array:
    """`[N, C * H * W]` of `[H, C, W, N]`."""
    height, channels, width, number = images.shape
    rows = buffer.shaped((number, channels, height, width), images.dtype)
    rows[:] = images.transpose(3, 1, 0, 2)
    return rows.reshape(number, -1)


def _pieces(row: Array, number: int) -> Array:
    """`[number, F, S]` of `[F, ...]`: a view of the numbers after each of the F, cut into that many."""
    return row.reshape(len(row), number, -1).transpose(1, 0, 2)
