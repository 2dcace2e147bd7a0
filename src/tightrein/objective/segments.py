"""Ratios, bounds and means of the parts of an answer that have like entropy. arXiv 2512.00499 (ESPO)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ..arrays import Array, at_least_float32, atleast, clip, namespace, stop_gradient, zero_where_masked
from ..decisions import Decisions
from ..errors import TightreinError
from ..settings import setting
from .aggregate import SeqMean
from .policy.bounds import Bounds
from .ratio import Ratio, exp_limited, log_ratio

_LEAST = 1e-8  # nats


@dataclass(frozen=True)
class SegmentRatio(Ratio):
    """The geometric mean of the ratios of a part of an answer, seen by each of its decisions with its own gradient."""

    equation = "r_t = sg[r_k] exp(logp_t - sg[logp_t]),   r_k = exp( mean over t in k of logp_t - logp_old_t )"
    needs = frozenset({"logp", "logp_old", "segment"})

    def __call__(self, d: Decisions) -> Array:
        """The ratio, the same value at each decision of a part: [B, T]."""
        x = log_ratio(d)
        now = stop_gradient(x)
        return exp_limited(segment_mean(now, segments(d))) * (
            1 + (x - now)
        )  # where it is taken, a slope of exp(x - now)

    def average(self, x: Array, d: Decisions) -> Array:
        """See Ratio: every decision has its own."""
        return x


@dataclass(frozen=True)
class SegmentWidths(Bounds):
    """Base of the widths of parts: `scale` times the mean entropy of a part in some unit."""

    needs = frozenset({"uncertainty"})
    scale: float = setting(0.02, above=0)

    def misfit(self, objective: Any) -> tuple[str, str] | None:
        """See Part: they are the bounds of parts."""
        ratio = objective.surrogate.ratio
        if isinstance(ratio, SegmentRatio):
            return None
        return (
            f"{type(self).__name__} belong to the ratio of a part of an answer, not to {type(ratio).__name__}",
            "set objective.surrogate.ratio=SegmentRatio, or bounds=Widths",
        )

    def __call__(self, d: Decisions, r: Array, advantage: Array) -> tuple[Array, Array]:
        """See Bounds."""
        width = self.scale * self.measured(at_least_float32(d.uncertainty), d.weights())
        return 1 - width, 1 + width

    def measured(self, entropy: Array, mask: Array) -> Array:
        """The mean entropies of the parts [B, T], in nats, in the unit of the widths; none below 0."""
        raise NotImplementedError


@dataclass(frozen=True)
class EntropyWidths(SegmentWidths):
    """Widths in proportion to the mean entropy of each part, over the largest there can be.

    `tokens` is the number of alternatives, the size of the vocabulary. It must be given; an engine does.
    """

    equation = "1 -+ scale mean over k of H / ln tokens"
    tokens: int | None = setting(None, at_least=2)

    def measured(self, entropy: Array, mask: Array) -> Array:
        """See SegmentWidths."""
        if self.tokens is None:
            raise TightreinError(
                "EntropyWidths needs the number of tokens to choose from",
                "give the size of the vocabulary, for example tr.method('espo_entropy', tokens=151936)",
            )
        return atleast(entropy, 0) / math.log(self.tokens)


@dataclass(frozen=True)
class RelativeEntropyWidths(SegmentWidths):
    """Widths in proportion to the mean entropy of each part over that of its answer, cut to [least, most]."""

    equation = "1 -+ scale clip( mean over k of H / mean of H, least, most )"
    scale: float = setting(4e-4, above=0)
    least: float = setting(0.5, at_least=0)
    most: float = setting(2.0, above=0)

    def measured(self, entropy: Array, mask: Array) -> Array:
        """See SegmentWidths."""
        xp = namespace(mask)
        length = atleast(xp.sum(mask, axis=1, keepdims=True), 1)
        mean = xp.sum(zero_where_masked(entropy, mask), axis=1, keepdims=True) / length
        return clip(entropy / (mean + _LEAST), self.least, self.most)


@dataclass(frozen=True)
class SegmentMean(SeqMean):
    """Mean over trajectories of the mean over their parts of the mean over a part's decisions."""

    equation = "mean over i of mean over k of mean over t in k of l_t"
    needs = frozenset({"segment"})

    def __call__(self, d: Decisions) -> Array:
        """See Aggregation."""
        mask = d.weights()
        parts = segments(d)
        sizes = [namespace(mask).sum(part, axis=1, keepdims=True) for part in parts]
        count = atleast(sum(namespace(mask).astype(n > 0, mask.dtype) for n in sizes), 1) * self.rows(mask)
        return sum(part / (atleast(n, 1) * count) for part, n in zip(parts, sizes, strict=True))


def segments(d: Decisions) -> list[Array]:
    """1 where a decision lies in a part, else 0, for each part: [B, T] each."""
    mask = d.weights()
    segment = namespace(mask).astype(d.segment, mask.dtype, copy=False)
    return [segment[..., k] * mask for k in range(segment.shape[-1])]


def segment_mean(x: Array, parts: list[Array]) -> Array:
    """Mean of `x` over the decisions of the same part of the same answer, 0 where masked: [B, T].

    x: [B, T], finite. parts: those of `segments`.
    """
    xp = namespace(x)

    def mean(part: Array) -> Array:
        size = atleast(xp.sum(part, axis=1, keepdims=True), 1)
        return part * (xp.sum(part * x, axis=1, keepdims=True) / size)

    return sum(map(mean, parts[1:]), mean(parts[0]))
