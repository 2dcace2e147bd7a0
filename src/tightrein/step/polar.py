"""Polar factors of matrices, and how large a step along one should be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from ..arrays import Array, at_least_float32, namespace
from ..settings import Part, setting

_QUINTIC = (3.4445, -4.7750, 2.0315)  # steep at 0, and keeps values around 1 without bringing them there
_CUBIC = (1.5, -0.5, 0.0)  # brings values around 1 to 1


@dataclass(frozen=True)
class Polar(Part):
    """Base of the ways to compute U V' of a matrix U S V'."""

    def __call__(self, matrix: Array) -> Array:
        """[m, n] -> [m, n], of the matrix's own dtype; 0 for 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class ExactPolar(Polar):
    """From a singular value decomposition; directions whose singular value is 0 up to rounding stay out."""

    equation: ClassVar[str] = "U V'"

    def __call__(self, matrix: Array) -> Array:
        """See Polar."""
        xp = namespace(matrix)
        wide = at_least_float32(matrix)
        u, s, vh = xp.linalg.svd(wide, full_matrices=False)
        least = xp.max(s) * max(matrix.shape) * xp.finfo(wide.dtype).eps
        return xp.astype(u * xp.astype(s > least, wide.dtype) @ vh, matrix.dtype)


@dataclass(frozen=True)
class NewtonSchulz(Polar):
    """Muon's quintic iteration: singular values from 0.01 to 1 of the norm end in [0.68, 1.14].

    `polish` cubic iterations after that bring them to 1: 8 and 5 give U V' to float32's precision, but for singular
    values below 1e-4 of the norm, in products alone (fast, and safe for many matrices at once). `bfloat16` runs all
    in that precision where the library has it, as the released code does.
    """

    equation: ClassVar[str] = "X <- a X + (b A + c A^2) X, A = X X', from X / |X|_F, 5 times"

    iterations: int = setting(5, at_least=1)
    polish: int = setting(0, at_least=0)
    bfloat16: bool = False

    def __call__(self, matrix: Array) -> Array:
        """See Polar."""
        xp = namespace(matrix)
        x = at_least_float32(matrix)
        if self.bfloat16:
            x = xp.astype(matrix, getattr(xp, "bfloat16", x.dtype))
        tall = matrix.shape[0] > matrix.shape[1]
        x = x.T if tall else x
        x = x / (xp.sqrt(xp.sum(x * x)) + 1e-7)
        for a, b, c in [_QUINTIC] * self.iterations + [_CUBIC] * self.polish:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return xp.astype(x.T if tall else x, matrix.dtype)


@dataclass(frozen=True)
class MatrixScale(Part):
    """Base of the factors on a polar factor, from the numbers of a layer's outputs and inputs."""

    def __call__(self, outputs: int, inputs: int) -> float:
        """The factor."""
        raise NotImplementedError


@dataclass(frozen=True)
class WidthScale(MatrixScale):
    """Jordan's; "original" in torch.optim.Muon."""

    equation: ClassVar[str] = "s = sqrt(max(1, out / in))"

    def __call__(self, outputs: int, inputs: int) -> float:
        """See MatrixScale."""
        return math.sqrt(max(1.0, outputs / inputs))


@dataclass(frozen=True)
class RMSScale(MatrixScale):
    """Moonlight's, with which AdamW's learning rates serve; "match_rms_adamw" in torch.optim.Muon.

    Root mean square of the step's entries: `rms` times the learning rate.
    """

    equation: ClassVar[str] = "s = rms sqrt(max(out, in))"

    rms: float = setting(0.2, above=0)

    def __call__(self, outputs: int, inputs: int) -> float:
        """See MatrixScale."""
        return self.rms * math.sqrt(max(outputs, inputs))


@dataclass(frozen=True)
class OperatorScale(MatrixScale):
    """Scion's: the norm between root-mean-square norms of a layer's inputs and outputs."""

    equation: ClassVar[str] = "s = sqrt(out / in)"

    def __call__(self, outputs: int, inputs: int) -> float:
        """See MatrixScale."""
        return math.sqrt(outputs / inputs)


@dataclass(frozen=True)
class Unscaled(MatrixScale):
    """No factor."""

    equation: ClassVar[str] = "s = 1"

    def __call__(self, outputs: int, inputs: int) -> float:
        """See MatrixScale."""
        return 1.0


def as_matrix(x: Array) -> Array:
    """Two axes: those of a convolution [out, in, kh, kw] after the first become one; a vector becomes a column."""
    return namespace(x).reshape(x, (x.shape[0] if x.ndim else 1, -1))


def scaled_polar(x: Array, axis: int | None, polar: Polar, scale: MatrixScale) -> Array:
    """The polar factor of `x`, times `scale`; axis: that of the outputs (None: the first)."""
    outputs = x.shape[axis or 0] if x.ndim else 1
    factor = scale(outputs, math.prod(x.shape) // outputs)
    return factor * namespace(x).reshape(polar(as_matrix(x)), x.shape)
