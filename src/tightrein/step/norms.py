"""Norms of everything that a step moves, and the steepest direction within the unit ball of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from ..arrays import Array, at_least_float32, namespace
from ..settings import Part, setting
from .polar import ExactPolar, MatrixScale, NewtonSchulz, Polar, RMSScale, Unscaled, scaled_polar

Axes = Sequence[int | None]  # of each tensor: the axis of a hidden matrix's outputs, None for anything else


@dataclass(frozen=True)
class Norm(Part):
    """Base of the norms over a sequence of tensors."""

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """The linear minimiser argmin <M, D> over ||D|| <= 1, of the tensors' shapes; 0 for M = 0."""
        raise NotImplementedError

    def dual(self, tensors: Sequence[Array], axes: Axes) -> Any:
        """The dual norm of M: -<M, direction(M)>."""
        each = zip(tensors, self.direction(tensors, axes), strict=True)
        return -sum(namespace(m).sum(m * d) for m, d in each)


@dataclass(frozen=True)
class L2(Norm):
    """The Euclidean norm of all entries together: normalised SGD."""

    equation: ClassVar[str] = "D = -M / |M|_2"

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """See Norm."""
        xp = namespace(tensors[0])
        square = sum(xp.sum(at_least_float32(m) ** 2) for m in tensors)
        inverse = xp.where(square > 0, 1 / xp.sqrt(xp.where(square > 0, square, xp.ones_like(square))), 0 * square)
        return [-xp.astype(inverse, m.dtype) * m for m in tensors]


@dataclass(frozen=True)
class LInf(Norm):
    """The largest entry: sign descent."""

    equation: ClassVar[str] = "D = -sign(M)"

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """See Norm."""
        return [-namespace(m).sign(m) for m in tensors]


@dataclass(frozen=True)
class L1(Norm):
    """The sum of all entries: the one coordinate with the largest entry moves."""

    equation: ClassVar[str] = "D = -sign(M_j) e_j, j = argmax |M_j|"

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """See Norm; of several largest entries the first moves."""
        xp = namespace(tensors[0])
        flat = xp.concat([xp.reshape(m, (-1,)) for m in tensors])
        place = xp.cumulative_sum(xp.ones_like(flat, dtype=xp.int32)) - 1
        alone = xp.where(place == xp.argmax(xp.abs(flat)), -xp.sign(flat), xp.zeros_like(flat))
        parts, start = [], 0
        for m in tensors:
            size = int(xp.reshape(m, (-1,)).shape[0])
            parts.append(xp.reshape(alone[start : start + size], m.shape))
            start += size
        return parts


@dataclass(frozen=True)
class Spectral(Norm):
    """The largest singular value of any of the tensors, each divided by its `scale`: orthogonalised steps.

    A vector counts as a matrix of one column, so its norm here is the Euclidean one.
    """

    equation: ClassVar[str] = "D = -s U V' for each M = U S V'"

    polar: Polar = ExactPolar()
    scale: MatrixScale = Unscaled()

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """See Norm."""
        return [-scaled_polar(m, axis, self.polar, self.scale) for m, axis in zip(tensors, axes, strict=True)]


@dataclass(frozen=True)
class Layerwise(Norm):
    """The largest of the layers' own norms: one norm for hidden matrices, another for each other tensor.

    `radius` is the others' share of the step. The defaults move every entry by about 0.2 of the learning rate (root
    mean square), as Adam does, so that learning rates found for Adam serve.
    """

    equation: ClassVar[str] = "D = the direction of each layer's own norm"

    hidden: Norm = Spectral(NewtonSchulz(iterations=8, polish=5), RMSScale())
    others: Norm = LInf()
    radius: float = setting(0.2, above=0)

    def direction(self, tensors: Sequence[Array], axes: Axes) -> list[Array]:
        """See Norm."""
        return [self._one(m, axis) for m, axis in zip(tensors, axes, strict=True)]

    def _one(self, m: Array, axis: int | None) -> Array:
        if axis is None:
            return self.radius * self.others.direction([m], [axis])[0]
        return self.hidden.direction([m], [axis])[0]
