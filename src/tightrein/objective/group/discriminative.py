"""Scores of answers, pushed apart where one is right and the other wrong. arXiv 2505.12366 (DisCO)."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar

from ...arrays import Array, atleast, group_sum, masked_mean, namespace, stop_gradient
from ...decisions import Decisions, Loss, Stats
from ...settings import Part, setting
from ..answer import group_max, mean_over_groups, right
from ..base import Objective, State, detached
from ..divergence import kl_stats
from ..estimators import K1, Estimator
from ..ratio import exp_limited, finite_logp, log_ratio


@dataclass(frozen=True)
class AnswerScore(Part):
    """Base of the scores of an answer: a mean over its decisions, so that length does not pay."""

    def each(self, d: Decisions) -> Array:
        """What is averaged: [B, T]."""
        raise NotImplementedError

    def __call__(self, d: Decisions) -> Array:
        """The score of each answer, 0 for one without decisions: [B]."""
        weights = d.weights()
        xp = namespace(weights)
        return xp.sum(weights * self.each(d), axis=1) / atleast(xp.sum(weights, axis=1), 1)


@dataclass(frozen=True)
class LogLikelihood(AnswerScore):
    """How likely the answer is."""

    equation = "s_i = sum_t m_it logp_it / L_i"
    needs = frozenset({"logp"})

    def each(self, d: Decisions) -> Array:
        """See AnswerScore."""
        return finite_logp(d)


@dataclass(frozen=True)
class MeanRatio(AnswerScore):
    """How much likelier its decisions have become."""

    equation = "s_i = sum_t m_it r_it / L_i"
    needs = frozenset({"logp", "logp_old"})

    def each(self, d: Decisions) -> Array:
        """See AnswerScore."""
        return exp_limited(log_ratio(d))


@dataclass(frozen=True)
class HingeKL(Part):
    """Nothing while the batch's KL(pi_old || pi) stays below `delta`, and the square of its excess beyond."""

    equation = "+ (beta / 2) max( KL - delta, 0 )^2,  KL = mean over decisions of k(logp_old - logp)"
    needs = frozenset({"logp", "logp_old"})
    beta: float = setting(1e3, at_least=0)
    delta: float = setting(1e-4, at_least=0)
    estimator: Estimator = K1()

    def __call__(self, d: Decisions) -> Array:
        """The penalty of a batch: a scalar."""
        excess = masked_mean(self.estimator(-log_ratio(d)), d.weights()) - self.delta
        xp = namespace(excess)
        return self.beta / 2 * xp.where(excess > 0, excess, xp.zeros_like(excess)) ** 2


@dataclass(frozen=True)
class DiscriminativeObjective(Objective):
    """L = -mean over questions of J_q + penalty; J_q is 0 where all answers are right, or all wrong.

    An answer is right when its reward reaches `threshold`. With `tau` the wrong answers weigh by their scores, the
    most tempting most (DisCO); tau = None takes their plain mean (DisCO-b).
    """

    equation = "J_q = mean_{i right} s_i - tau log mean_{j wrong} exp(s_j / tau)"
    whole_groups: ClassVar[bool] = True
    score: AnswerScore = LogLikelihood()
    tau: float | None = setting(10.0, above=0)
    penalty: HingeKL = HingeKL()
    threshold: float = setting(1.0)

    @property
    def needs(self) -> frozenset[str]:  # type: ignore[override]
        """Fields of Decisions that the loss reads; `mask` is optional."""
        return self.score.needs | self.penalty.needs | {"reward", "group"}

    def __call__(self, d: Decisions, state: State) -> Loss:
        """Loss of a batch; the gradient flows into logp."""
        gain, _ = self.questions(d)
        value = self.penalty(d) - mean_over_groups(gain, d.group, d.alive())
        return Loss(value, None, Stats(functools.partial(self._stats, detached(d))))

    def questions(self, d: Decisions) -> tuple[Array, Array]:
        """(J_q of each answer's question, 1 where the question has right and wrong answers): [B] each."""
        solved, wrong = self._sides(d)
        score = self.score(d)
        xp = namespace(score)
        both = (group_sum(solved, d.group) > 0) & (group_sum(wrong, d.group) > 0)
        best = group_sum(solved * score, d.group) / atleast(group_sum(solved, d.group), 1)
        gain = xp.where(both, best - self._tempting(score, wrong, d.group), xp.zeros_like(score))
        return gain, xp.astype(both, score.dtype)

    def _tempting(self, score: Array, wrong: Array, group: Array) -> Array:
        """The wrong answers' scores as one: their mean, or log-mean-exp at temperature tau; [B]."""
        count = atleast(group_sum(wrong, group), 1)
        if self.tau is None:
            return group_sum(wrong * score, group) / count
        xp = namespace(score)
        top = group_max(stop_gradient(score), wrong, group)
        below = xp.where(wrong != 0, (score - top) / self.tau, xp.zeros_like(score))
        total = group_sum(wrong * xp.exp(below), group) / count
        return top + self.tau * xp.log(xp.where(total > 0, total, xp.ones_like(total)))

    def _sides(self, d: Decisions) -> tuple[Array, Array]:
        """1 for the right answers, 1 for the wrong ones: [B] each."""
        solved = right(d, self.threshold)
        return solved, d.alive() - solved

    def _stats(self, d: Decisions) -> dict[str, Array]:
        solved, wrong = self._sides(d)
        score, (gain, both) = self.score(d), self.questions(d)
        xp, each = namespace(score), kl_stats(d)
        pairs = solved[:, None] * wrong[None, :] * xp.astype(d.group[:, None] == d.group[None, :], score.dtype)
        higher = xp.astype(score[:, None] > score[None, :], score.dtype)
        level = xp.astype(score[:, None] == score[None, :], score.dtype)
        stats = {
            "score_right": masked_mean(score, solved),
            "score_wrong": masked_mean(score, wrong),
            "auc": masked_mean(higher + level / 2, pairs),
            "gain": mean_over_groups(gain, d.group, d.alive()),
            "questions_compared": mean_over_groups(both, d.group, d.alive()),
            "penalty": self.penalty(d),
            **{name: masked_mean(each[name], d.weights()) for name in ("kl_k1", "kl_k3")},
        }
        return stats if d.entropy is None else {**stats, "entropy": masked_mean(d.entropy, d.weights())}
