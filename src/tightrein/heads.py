"""What stands on the features of a network, where a method has its own idea of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from .arrays import Array, atleast, clip, is_traced, log_sigmoid, namespace, sigmoid, tanh
from .objective.value.categorical import Bins
from .settings import Part, setting

_FLAT = 1e-8  # squared norms below this: series take the place of quotients that are 0 / 0 at 0
_FAR = 20.0  # beyond this distance of a hyperplane from the origin all features lie on the same side, past the clamp


@dataclass(frozen=True)
class Heads(Part):
    """Base of the pairs of a policy's and a value's last layers; without one they are dense layers.

    `shares`: the two have layers in common.
    """

    shares: ClassVar[bool] = False


@dataclass(frozen=True)
class HyperbolicHeads(Heads):
    """Features of bounded length are put on a hyperboloid; an output is a scaled distance from a hyperplane there.

    The hyperboloid in d + 1 dimensions has the curvature -c, its origin is (1 / sqrt(c), 0). `width` is d. Features are
    no longer than atanh(alpha) / sqrt(c). Arguments of asinh are held within +-`limit`, more softly where `sharpness`
    is low. The value is a distribution over `bins` (None: a number). Source: Hyper++, arXiv 2512.14202.
    """

    equation = (
        "x = gate atanh(alpha) / sqrt(c) tanh(rms_norm(W h + b)) / sqrt(d),  p = exp_0(x),  logit_k = |z_k| / sqrt(c) "
        "asinh( clamp( sqrt(c) (cosh(sqrt(c) r_k) <z_k, p> / |z_k| - p_0 sinh(sqrt(c) r_k)) ) )"
    )
    width: int = setting(32, at_least=1)
    curvature: float = setting(1.0, above=0)
    alpha: float = setting(0.95, above=0, below=1)
    limit: float = setting(math.log(2 / 2.0**-52), above=0)
    sharpness: float = setting(50.0, above=0)
    bins: Bins | None = Bins()

    def __post_init__(self) -> None:
        super().__post_init__()
        if any(is_traced(value) for value in vars(self).values()):  # networks are made before anything is traced
            raise TypeError("heads are a part of the network, and their settings are fixed with it")

    @property
    def longest(self) -> float:
        """What no feature is longer than."""
        return math.atanh(self.alpha) / math.sqrt(self.curvature)

    def bounded(self, h: Array, gate: Array, gate_bias: Array) -> Array:
        """Features [..., d] no longer than `longest`, of any h [..., d]. gate: [d], gate_bias: scalar, both learned."""
        xp = namespace(h)
        scale = xp.sqrt(xp.mean(h * h, axis=-1, keepdims=True) + 2.0**-23)
        x = tanh(h / scale) / math.sqrt(h.shape[-1])
        return self.longest * sigmoid(xp.sum(x * gate, axis=-1, keepdims=True) + gate_bias) * x

    def lifted(self, x: Array) -> tuple[Array, Array]:
        """The exponential map of x [..., d] at the origin: (p_0 [...], the rest of p [..., d])."""
        xp = namespace(x)
        square = self.curvature * xp.sum(x * x, axis=-1)
        flat = square < _FLAT
        length = xp.sqrt(xp.where(flat, xp.ones_like(square), square))
        cosh = xp.where(flat, 1 + square / 2, xp.cosh(length))
        return cosh / math.sqrt(self.curvature), xp.where(flat, 1 + square / 6, xp.sinh(length) / length)[..., None] * x

    def logits(self, x: Array, normals: Array, shifts: Array) -> Array:
        """Outputs [..., K] for features x [..., d]. normals: z [K, d]. shifts: r [K], how far each hyperplane is."""
        xp, root = namespace(x), math.sqrt(self.curvature)
        first, rest = self.lifted(x)
        size = xp.sqrt(atleast(xp.sum(normals * normals, axis=-1), 1e-12))
        away = clip(root * shifts, -_FAR, _FAR)
        unit = (normals / size[:, None]).T
        inside = root * (xp.cosh(away) * (rest @ unit) - first[..., None] * xp.sinh(away))
        return size / root * xp.asinh(self.clamped(inside))

    def clamped(self, u: Array) -> Array:
        """u where it is within +-limit; beyond, it comes to the limit from log(2) / sharpness below."""
        xp = namespace(u)

        def short(x: Array) -> Array:
            """softplus(sharpness x) / sharpness."""
            return -log_sigmoid(-self.sharpness * x) / self.sharpness

        u = xp.where(u > self.limit, self.limit - short(self.limit - u), u)
        return xp.where(u < -self.limit, short(u + self.limit) - self.limit, u)
