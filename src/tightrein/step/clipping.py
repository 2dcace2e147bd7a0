"""Bounds on the norm of a gradient that follow from the norms before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..arrays import Array, at_least_float32, atleast, namespace
from ..settings import Part, setting

_EPS = 1e-6  # beside the standard deviation in the z-score, as in the released code


@dataclass(frozen=True)
class Clipping(Part):
    """Base of the rules that say, from its history, how large the global norm of a gradient may be.

    A rule is two pure functions on 0-d arrays (NumPy, PyTorch or JAX); its state goes into checkpoints.
    """

    def start(self, norm: Array) -> dict[str, Array]:
        """State before the first step; norm: any 0-d array of the library and precision to be used."""
        raise NotImplementedError

    def limit(self, norm: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """(largest norm allowed now, inf where this one may stay; state of the next step)."""
        raise NotImplementedError

    def figures(self, state: dict[str, Array]) -> dict[str, Array]:
        """What the state tells a reader: the fraction of steps that were clipped."""
        raise NotImplementedError


@dataclass(frozen=True)
class ZClip(Clipping):
    """Clips a norm whose z-score against its moving statistics is above `z`, the harder the larger it is.

    arXiv 2504.02507. mu and v are the mean and variance of the first `collect` norms, and moving averages after
    that, which see a spike as what it was clipped to. `skip_spikes`: they do not see it at all.
    """

    equation: ClassVar[str] = "z = (|g| - mu) / sd > z_t:  |g| -> c (mu + z_t^2 sd / z)"

    decay: float = setting(0.97, at_least=0, below=1)
    z: float = setting(2.5, above=0)
    factor: float = setting(1.0, above=0)
    collect: int = setting(25, at_least=1)
    skip_spikes: bool = False

    def start(self, norm: Array) -> dict[str, Array]:
        """Mean, variance, the first norms [collect], how many there were of norms and of spikes."""
        xp = namespace(norm)
        zero = xp.zeros_like(at_least_float32(norm))
        norms = xp.stack([zero] * self.collect)
        return {"mean": zero, "variance": zero, "norms": norms, "count": zero, "spikes": zero}

    def limit(self, norm: Array, state: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """See Clipping. While the first norms are collected everything may stay."""
        xp = namespace(norm)
        norm = at_least_float32(norm)
        mean, variance, count = state["mean"], state["variance"], state["count"]
        spike, threshold = self._judged(norm, mean, xp.sqrt(variance))
        collecting = count < self.collect
        spike = spike & ~collecting
        norms, first_mean, first_variance = self._collected(norm, state)
        seen = xp.where(spike, threshold, norm)
        new_mean = self.decay * mean + (1 - self.decay) * seen
        new_variance = self.decay * variance + (1 - self.decay) * (seen - new_mean) ** 2
        if self.skip_spikes:
            new_mean, new_variance = xp.where(spike, mean, new_mean), xp.where(spike, variance, new_variance)
        new = {
            "mean": xp.where(collecting, first_mean, new_mean),
            "variance": xp.where(collecting, first_variance, new_variance),
            "norms": norms,
            "count": count + 1,
            "spikes": state["spikes"] + xp.astype(spike, norm.dtype),
        }
        return xp.where(spike, threshold, xp.full_like(norm, xp.inf)), new

    def figures(self, state: dict[str, Array]) -> dict[str, Array]:
        """See Clipping."""
        return {"spike_fraction": state["spikes"] / atleast(state["count"], 1)}

    def _judged(self, norm: Array, mean: Array, deviation: Array) -> tuple[Array, Array]:
        """(is it a spike, what it is then clipped to)."""
        z = (norm - mean) / (deviation + _EPS)
        threshold = mean + self.z * deviation / atleast(z / self.z, 1)
        return z > self.z, self.factor * threshold

    def _collected(self, norm: Array, state: dict[str, Array]) -> tuple[Array, Array, Array]:
        """The first norms with this one, as long as there is room, and their mean and variance once all are there."""
        xp = namespace(norm)
        slot = xp.cumulative_sum(xp.ones_like(state["norms"])) - 1
        norms = xp.where(slot == state["count"], norm, state["norms"])
        complete = state["count"] == self.collect - 1
        mean, variance = xp.mean(norms), xp.mean((norms - xp.mean(norms)) ** 2)
        nothing = xp.zeros_like(mean)
        return norms, xp.where(complete, mean, nothing), xp.where(complete, variance, nothing)


@dataclass(frozen=True)
class ZClipMean(ZClip):
    """ZClip that brings every spike down to the mean."""

    equation: ClassVar[str] = "z = (|g| - mu) / sd > z_t:  |g| -> mu"

    def _judged(self, norm: Array, mean: Array, deviation: Array) -> tuple[Array, Array]:
        return (norm - mean) / (deviation + _EPS) > self.z, mean


@dataclass(frozen=True)
class ZClipPercentile(ZClip):
    """ZClip with the fixed bound mu + z sd in place of one that falls with the norm."""

    equation: ClassVar[str] = "|g| > mu + z_t sd:  |g| -> mu + z_t sd"

    def _judged(self, norm: Array, mean: Array, deviation: Array) -> tuple[Array, Array]:
        threshold = mean + self.z * deviation
        return norm > threshold, threshold
