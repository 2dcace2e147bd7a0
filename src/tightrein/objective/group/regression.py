"""Regression of log-ratios on rewards, up to a constant for each prompt."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ...arrays import Array, atleast, group_sum, masked_mean, namespace, stop_gradient
from ...decisions import Decisions, Loss, Stats
from ...settings import Part, setting
from ..answer import AnswerLogRatio, ToOld, mean_over_groups
from ..base import Objective, State, detached
from ..divergence import kl_stats


@dataclass(frozen=True)
class Spread(Part):
    """Base of the measures of how far the answers of a group are from having one residual: multiples of its variance.

    Var is the unbiased variance of the residuals x of the group's k answers.
    """

    def __call__(self, variance: Array, size: Array) -> Array:
        """The loss of each group from its variance and number of answers, elementwise."""
        raise NotImplementedError


@dataclass(frozen=True)
class Variance(Spread):
    """Half the variance."""

    equation = "sum_i (x_i - mean x)^2 / (2 (k - 1))"

    def __call__(self, variance: Array, size: Array) -> Array:
        """See Spread."""
        return variance / 2


@dataclass(frozen=True)
class PairMean(Spread):
    """Mean over the pairs in the group of their squared difference: twice the variance."""

    equation = "mean_{i<j} (x_i - x_j)^2"

    def __call__(self, variance: Array, size: Array) -> Array:
        """See Spread."""
        return 2 * variance


@dataclass(frozen=True)
class PairSum(Spread):
    """Squared differences of all pairs over k - 1: k times the variance."""

    equation = "sum_{i<j} (x_i - x_j)^2 / (k - 1)"

    def __call__(self, variance: Array, size: Array) -> Array:
        """See Spread."""
        return size * variance


@dataclass(frozen=True)
class RegressionObjective(Objective):
    """L = mean over prompts of the spread of x_i = beta log-ratio_i - R_i.

    It is 0 just where the policy is the other one times exp(R / beta), normalised, on the answers at hand. Groups of
    fewer than two answers do not count.
    """

    whole_groups: ClassVar[bool] = True
    beta: float = setting(0.1, above=0)
    log_ratio: AnswerLogRatio = ToOld()
    spread: Spread = Variance()

    @property
    def equation(self) -> str:  # type: ignore[override]
        """The loss of a group."""
        return f"{self.spread.equation},  x_i = beta ( {self.log_ratio.equation} ) - R_i"

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.log_ratio.needs | {"reward", "group"}

    def groups(self, d: Decisions) -> tuple[Array, Array]:
        """(loss of each answer's group, 1 for answers of groups that count): [B] each."""
        rows = d.alive()
        size = group_sum(rows, d.group)
        residual = self.beta * self.log_ratio(d) - stop_gradient(d.outcome())
        loss = self.spread(_variance(residual, rows, d.group), size)
        return loss, rows * namespace(rows).astype(size > 1, rows.dtype)

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp."""
        loss, rows = self.groups(d)
        return Loss(mean_over_groups(loss, d.group, rows), None, Stats(functools.partial(self._stats, detached(d))))

    def _stats(self, d: Decisions) -> dict[str, Array]:
        _, rows = self.groups(d)
        xp, implicit = namespace(rows), self.beta * self.log_ratio(d)
        spread = {
            name: mean_over_groups(_variance(x, rows, d.group), d.group, rows)
            for name, x in (("residual", implicit - d.outcome()), ("reward", d.outcome()))
        }
        some = xp.where(spread["reward"] > 0, spread["reward"], xp.ones_like(spread["reward"]))
        stats = {
            "groups_compared": mean_over_groups(rows, d.group, d.alive()),
            "residual": xp.sqrt(spread["residual"]),
            "explained_variance": (spread["reward"] - spread["residual"]) / some,
            "rewards_implicit": masked_mean(implicit, rows),
        }
        if d.logp_old is not None:
            each = kl_stats(d)
            stats |= {name: masked_mean(each[name], d.weights()) for name in ("kl_k1", "kl_k3")}
        if d.entropy is not None:
            stats["entropy"] = masked_mean(d.entropy, d.weights())
        return stats


def _variance(x: Array, rows: Array, group: Array) -> Array:
    """Unbiased variance of x over the rows of each group, 0 where there are fewer than two: [B]."""
    size = group_sum(rows, group)
    x = namespace(x).where(rows != 0, x, namespace(x).zeros_like(x))
    centred = rows * (x - group_sum(x, group) / atleast(size, 1))
    return group_sum(centred**2, group) / atleast(size - 1, 1)
