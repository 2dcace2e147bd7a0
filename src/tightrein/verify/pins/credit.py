"""Exact properties of the methods whose contribution is credit or selection."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...arrays import Array, convert
from ...catalogue import method
from ...credit import GAE, BetaTracker, LengthAdaptiveGAE, SmoothStandardised
from ...credit.tracker import rate
from ...decisions import Decisions
from ...objective.policy import Clip, ProbabilityBounds
from ...objective.term import PositiveImitation
from ...selection.curriculum import UncertaintyCurriculum
from .. import batches
from ..checks import close
from ..pin import pin

DCPO, SPO, VAPO = "dcpo_dynamic_clip", "single_stream_spo", "vapo"


def one_group(rewards: Any) -> Decisions:
    """Answers of one decision each to prompt 1."""
    reward = np.asarray(rewards, float)
    rows = reward.shape[0]
    return Decisions(
        mask=np.ones((rows, 1)), reward=reward, group=np.zeros(rows, int), prompt=np.ones(rows, int),
        drift=np.zeros(rows),
    )  # fmt: skip


def decision(q: float, r: float = 1.0, advantage: float = 1.0) -> Decisions:
    """One decision of old probability q, ratio r."""
    old = np.array([[np.log(q) if q else -np.inf]])
    return Decisions(logp=old + np.log(r), logp_old=old, advantage=np.array([[advantage]]))


def bounds(q: float) -> tuple[float, float]:
    """DCPO's bounds of the ratio at old probability q."""
    low, high = ProbabilityBounds()(decision(q), np.ones((1, 1)), np.ones((1, 1)))
    return float(low[0, 0]), float(high[0, 0])


@pin(DCPO)
def bounds_by_old_probability() -> None:
    """At q = 0.9, 0.5, 0.01, 0.001, 1 the ratio is cut at the paper's bounds."""
    known = {
        0.9: (0.768742, 1.187184),
        0.5: (0.5, 1.306226),
        0.01: (0.5, 5.0),
        0.001: (0.5, 10.0),
        1.0: (0.8, 1.170820),
    }
    for q, expected in known.items():
        close(bounds(q), expected, 1e-6, f"bounds at {q}")


@pin(DCPO)
def lower_bound_is_a_half_up_to_four_epsilon() -> None:
    """The lower bound is never below 1/2, and is 1/2 exactly where q <= 4 low."""
    for q in (1e-12, 0.1, 0.6399):
        assert bounds(q)[0] == 0.5
    assert 0.5 < bounds(0.6401)[0] < 0.52
    assert bounds(0.0)[1] == 10


@pin(DCPO)
def bounds_hold_the_weighted_change() -> None:
    """At both bounds |r - 1| r q is the setting, where neither 1/2 nor the cap is hit."""
    for q in (0.7, 0.9, 1.0):
        low, high = bounds(q)
        close((1 - low) * low * q, 0.16, 1e-12, "below")
        close((high - 1) * high * q, 0.2, 1e-12, "above")


@pin(DCPO)
def dual_clip() -> None:
    """A negative advantage costs at most 10 |A|, however far the ratio has run."""
    surrogate: Clip = method(DCPO).objective.surrogate  # type: ignore[attr-defined]
    close(surrogate(decision(1e-4, 500.0, -2.0)), [[20.0]], 1e-12, "loss")


@pin(DCPO)
def advantages_by_visit() -> None:
    """Rewards 1000, 1100, 1111 by visit give the paper's advantages and tracker, the last group although all equal."""
    credit, state = SmoothStandardised(), SmoothStandardised().init(3)
    visits: list[tuple[list[float], list[float], tuple[float, ...]]] = [
        ([1, 0, 0, 0], [1.5, -0.5, -0.5, -0.5], (1, 0.25, 0.5)),
        ([1, 1, 0, 0], [0.996747, 0.996747, -0.771253, -0.771253], (2, 0.375, 0.554339)),
        ([1, 1, 1, 1], [0.257172] * 4, (3, 0.583333, 0.540062)),
    ]
    for rewards, advantage, tracker in visits:
        d = one_group(rewards)
        close(credit(d, state).advantage[:, 0], advantage, 1e-6, f"visit of {rewards}")
        state = credit.update(state, d, 0.0)
        close([state[name][1] for name in ("count", "mean", "deviation")], tracker, 1e-6, "tracker")
    assert not state["count"][[0, 2]].any()


@pin(DCPO)
def first_visit_is_plain_standardisation() -> None:
    """A prompt's first group gets the reward minus the group's mean over its deviation."""
    made = batches.fields(0, method(DCPO))
    d, plain = batches.decisions(made), method("grpo").override({"credit.eps": 0.0})
    mine = SmoothStandardised()(d, SmoothStandardised().init(batches.PROMPTS)).advantage
    close(mine, plain.prepare(d).advantage, 1e-12, "advantage")


@pin(DCPO)
def groups_together_or_one_after_another() -> None:
    """Two groups of one prompt in a batch leave the tracker as they would one after the other."""
    credit = SmoothStandardised()
    start = credit.update(credit.init(3), one_group([1.0, 0.5]), 0.0)
    first, second = one_group([1.0, 0.0, 0.2]), one_group([0.9, 0.7, 0.0, 0.0])
    both = Decisions(
        mask=np.ones((7, 1)), reward=np.concat([first.reward, second.reward]),
        group=np.array([4, 4, 4, 2, 2, 2, 2]), prompt=np.ones(7, int),
    )  # fmt: skip
    in_turn = credit.update(credit.update(start, first, 0.0), second, 0.0)
    for name, x in credit.update(start, both, 0.0).items():
        close(x, in_turn[name], 1e-12, name)


@pin(DCPO)
def no_reward_ever_moves_nothing() -> None:
    """A prompt that always earned 0.1 has advantage exactly 0, not rounding over rounding."""
    credit, state = SmoothStandardised(), SmoothStandardised().init(2)
    for _ in range(7):
        d = one_group([0.1] * 3)
        assert not credit(d, state).advantage.any()
        state = credit.update(state, d, 0.0)


@pin(DCPO)
def answers_are_not_averaged_over_the_batch() -> None:
    """The same batch twice in one has twice the loss."""
    m = method(DCPO)
    made = batches.fields(3, m)
    twice = {name: np.concat([x, x]) for name, x in made.items() if isinstance(x, np.ndarray)}
    twice["group"][batches.ROWS :] += 100
    twice["prompt"][batches.ROWS :] += 1  # ids between the first ones
    state = m.init(batches.PROMPTS)
    one, both = (float(m.loss(m.prepare(batches.decisions(d), state), state).value) for d in (made, twice))
    close(both, 2 * one, 1e-12, "loss")


@pin(SPO)
def tracker_by_numbers() -> None:
    """6 of 8 offline successes: a 5.7778, b 2.2222; a failure at forgetting .875: 5.0556, 2.9444, sum still 8."""
    credit = BetaTracker()
    state = credit.after(np.array([0.0, 6.0]), 8)
    close([state["a"][1], state["b"][1], rate(state)[1]], [5.7778, 2.2222, 0.72222], 1e-4, "start")
    d = one_group([0.0]).replace(drift=np.array([9.0]))
    state = credit.update(state, d, 0.0)
    close([state["a"][1], state["b"][1], rate(state)[1]], [5.0556, 2.9444, 0.63194], 1e-4, "after a failure")
    close(state["a"] + state["b"], [8.0, 8.0], 1e-12, "sum")
    close(rate(credit.init(1)), [0.5], 0, "nothing known")


@pin(SPO)
def forgetting_by_drift() -> None:
    """A drift of .06 halves before the clamp, which binds for drifts below .00353 and above .01156."""
    free = BetaTracker(low=0.0, high=1.0)
    start = {"a": np.full(2, 4.0), "b": np.full(2, 4.0)}

    def forgotten(credit: BetaTracker, drift: float) -> float:
        after = credit.update(start, one_group([0.0]).replace(drift=np.array([drift])), 0.0)
        return float(after["a"][1]) / 4

    close(forgotten(free, 0.06), 0.5, 1e-12, "half")
    for drift, expected in ((0.0, 0.96), (0.0035, 0.96), (0.0117, 0.875), (1.0, 0.875)):
        close(forgotten(BetaTracker(), drift), expected, 1e-12, f"drift {drift}")
    for drift in (0.0036, 0.0115):
        assert 0.875 < forgotten(BetaTracker(), drift) < 0.96


@pin(SPO)
def constant_forgetting_is_an_average() -> None:
    """With a constant f and a + b = 1 / (1 - f) the rate is an exponential average of the rewards."""
    credit = BetaTracker(low=0.875, high=0.875)
    state, average = {"a": np.full(2, 4.0), "b": np.full(2, 4.0)}, 0.5
    for reward in np.random.default_rng(0).random(30):
        state = credit.update(state, one_group([reward]), 0.0)
        average = 0.875 * average + 0.125 * reward
        close(rate(state)[1], average, 1e-12, "rate")


@pin(SPO)
def rates_and_weights_stay_inside() -> None:
    """The rate stays inside (0, 1) for any rewards; prompts weigh .55 at v = 1/2, and .05 at least."""
    credit, curriculum = BetaTracker(), UncertaintyCurriculum()
    for reward in (0.0, 1.0, -3.0, 70.0):
        state = credit.init(2)
        for _ in range(400):
            state = credit.update(state, one_group([reward]), 0.0)
        assert 0 < rate(state)[1] < 1
        assert 0.05 < curriculum.weights(state)[1] < 0.55
    close(curriculum.weights(credit.init(1)), [0.55], 1e-12, "weight")


@pin(SPO)
def no_group_is_needed() -> None:
    """Answers to prompts that are all different get advantages of mean 0 and deviation 1."""
    d = Decisions(mask=np.ones((5, 2)), reward=np.array([0.0, 1, 1, 0, 1]), prompt=np.arange(5), drift=np.zeros(5))
    advantage = BetaTracker()(d, BetaTracker().init(5)).advantage
    close([advantage.mean(), advantage[:, 0].std(ddof=1)], [0, 1], 1e-7, "moments")


@pin(VAPO)
def lambda_by_length() -> None:
    """Lambda is 0, .5, .8, .98, .998 for answers of 20, 40, 100, 1000, 10000 tokens, and 0 for shorter ones."""
    lengths = np.array([1, 20, 40, 100, 1000, 10000])
    mask = (np.arange(10000) < lengths[:, None]).astype(float)
    close(LengthAdaptiveGAE().policy_lam(mask)[:, 0], [0, 0, 0.5, 0.8, 0.98, 0.998], 1e-12, "lambda")


def valued(seed: int, rows: int = 6, width: int = 60) -> Decisions:
    """Answers with values and outcomes, and what is needed for a loss at ratio 1."""
    rng = np.random.default_rng(seed)
    mask = (np.arange(width) < rng.integers(3, width + 1, rows)[:, None]).astype(float)
    logp = -rng.random((rows, width))
    return Decisions(
        mask=mask, reward=rng.integers(0, 2, rows).astype(float), value_old=rng.random((rows, width)),
        logp=logp, logp_old=logp.copy(), value=rng.random((rows, width)), entropy=rng.random((rows, width)),
    )  # fmt: skip


@pin(VAPO)
def rows_are_independent() -> None:
    """One call over answers of all lengths is a loop of plain GAE, each with its own lambda."""
    d, credit = valued(0), LengthAdaptiveGAE(standardise=False)
    together = credit(d)
    for i, length in enumerate(d.mask.sum(1)):
        row = Decisions(mask=d.mask[i : i + 1], reward=d.reward[i : i + 1], value_old=d.value_old[i : i + 1])
        alone = GAE(gamma=1.0, lam=max(0.0, 1 - 20 / float(length)), value_lam=1.0)(row)
        close(together.advantage[i : i + 1], alone.advantage, 1e-12, f"row {i}")
        close(together.returns[i : i + 1], alone.returns, 1e-12, f"row {i}")


@pin(VAPO)
def limits_of_lambda() -> None:
    """Up to 1/alpha tokens: one-step residuals. alpha -> infinity: the reward to go minus the value."""
    d = valued(1, width=20)
    close(LengthAdaptiveGAE(standardise=False)(d).advantage, GAE(1.0, 0.0)(d).advantage, 1e-12, "short")
    monte_carlo = (d.reward[:, None] - d.value_old) * d.mask
    close(LengthAdaptiveGAE(alpha=1e12, standardise=False)(d).advantage, monte_carlo, 1e-9, "alpha infinite")


@pin(VAPO)
def value_targets_do_not_decay() -> None:
    """The value's target is the outcome at every token; with lambda .95 that of a success 100 tokens away is .00623."""
    d = Decisions(mask=np.ones((1, 100)), reward=np.ones(1), value_old=np.zeros((1, 100)))
    close(LengthAdaptiveGAE()(d).returns, np.ones((1, 100)), 1e-12, "target")
    close(GAE(1.0, 0.95)(d).returns[0, 0], 0.95**99, 1e-12, "decayed")


@pin(VAPO)
def likelihood_of_right_answers() -> None:
    """The extra term is the mean of -logp over the tokens of right answers, and 0 without one."""
    d = valued(2)
    right = d.mask * (d.reward > 0)[:, None]
    close(PositiveImitation()(d, d.weights()), -(d.logp * right).sum() / right.sum(), 1e-12, "term")
    assert PositiveImitation()(d.replace(reward=0 * d.reward), d.weights()) == 0
    assert np.isfinite(method(VAPO).loss(method(VAPO).prepare(d.replace(reward=0 * d.reward))).value)


@pin(VAPO)
def gradient_on_the_old_policy() -> None:
    """At ratio 1 the gradient by logp is -(A / tokens + mu / tokens of right answers, where right)."""
    m = method(VAPO)
    library = batches.autodiff()
    d = m.prepare(convert(valued(3), library))
    found = batches.gradients(m, d)["logp"]
    mask, right = np.asarray(d.mask), np.asarray(d.mask * (d.reward > 0)[:, None])
    close(found, -(np.asarray(d.advantage) / mask.sum() + 0.1 * right / right.sum()), 1e-9, "gradient")


@pin(VAPO)
def without_its_additions() -> None:
    """Without the likelihood term, with equal widths and a fixed lambda: the loss of PPO with decoupled GAE."""
    d = valued(4)
    d = d.replace(logp=d.logp + 0.3 * np.random.default_rng(5).standard_normal(d.logp.shape))
    m = method(VAPO).override(
        {"positive_imitation.coef": 0.0, "high": 0.2, "credit": GAE(1.0, 0.95, value_lam=1.0, standardise=True)}
    )
    prepared = m.prepare(d)
    r, a = np.exp(d.logp - d.logp_old), prepared.advantage
    policy = np.maximum(-r * a, -np.clip(r, 0.8, 1.2) * a)
    error = 0.5 * (d.value - d.reward[:, None]) ** 2
    expected: Array = ((policy + 0.5 * error) * d.mask).sum() / d.mask.sum()
    close(m.loss(prepared).value, expected, 1e-12, "loss")
