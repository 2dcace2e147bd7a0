"""The exact properties of the surrogates with a drift or a divergence of their own."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...anchor.controller import Constant
from ...arrays import Array, convert, namespace, value_and_gradient
from ...credit import GroupCentred, GroupNormalised, InformativeScaled
from ...decisions import Decisions
from ...method import Method
from ...objective.divergence import SampledKL, SampledNewKL, SampledOldKL, SampledSymmetricKL
from ...objective.estimators import K1, K3, TruncatedK3
from ...objective.policy import (
    BehaviourWeight,
    DualSided,
    Importance,
    LogClip,
    OneSided,
    RatioWeight,
    RegularisedScore,
    Score,
    Widths,
)
from ...selection import ThresholdResampling
from ..batches import autodiff, batch, coefficient, convert_decisions, gradient, loss_at, method, one_decision
from ..learning.tabular import log_softmax
from ..pin import pin

DIRECTIONS = ("fkl", "ufkl", "rkl", "urkl", "js", "ujs")
# w = 1.5, A = 1, beta = 0.1: what a decision is pushed up by, of the four directions.
ASCENT = dict(zip(DIRECTIONS, (1.6, 1.45, 1.289180, 1.439180, 1.444590, 1.444590), strict=True))


def _rpg(variant: str, beta: float) -> Method:
    """A variant of rpg_kl with another coefficient of its penalty."""
    made = method("rpg_kl", variant=variant)
    path = next(p for p in made.settings() if p.endswith("controller.coef"))
    return made.override({path: beta})


def _push(what: Method, w: float, advantage: float) -> float:
    return -float(gradient(what, one_decision(w, advantage))[0, 0])


@pin("rpg_kl")
def rpg_ascent_weights() -> None:
    """w = 1.5, A = 1, beta = 0.1: pushed by 1.6, 1.45, 1.28918, 1.43918 (FKL, UFKL, RKL, URKL) in either form."""
    for name, form in itertools.product(DIRECTIONS, ("", "_reinforce")):
        assert_allclose(_push(_rpg(name + form, 0.1), 1.5, 1.0), ASCENT[name], atol=1e-6, err_msg=name + form)


@pin("rpg_kl")
def rpg_losses() -> None:
    """The differentiable losses there: -1.5 - 0.1 log w, -1.490547, -1.43918, and -1.58918 + 0.1, a constant."""
    found = [float(_rpg(name, 0.1).loss(one_decision(1.5, 1.0)).value) for name in DIRECTIONS[:4]]
    assert_allclose(found, [-1.5 - 0.1 * math.log(1.5), -1.490547, -1.439180, -1.589180 + 0.1], atol=1e-6)


@pin("rpg_kl")
def rpg_regularised_advantage() -> None:
    """A' there: 1.066667, 0.966667, 0.859453, 0.959453; times w it is the push."""
    for name, expected in zip(DIRECTIONS, (1.066667, 0.966667, 0.859453, 0.959453), strict=False):
        surrogate: Any = _rpg(f"{name}_reinforce", 0.1).objective.surrogate  # type: ignore[attr-defined]
        push = -float(surrogate.coefficient(one_decision(1.5, 1.0))[0, 0])
        assert_allclose([push, push / 1.5], [ASCENT[name], expected], atol=1e-6)


@pin("rpg_kl")
def rpg_without_penalty() -> None:
    """beta = 0: every direction is the importance-weighted loss; w = 1: pushed by A + beta, A, A - beta, A."""
    d = batch(0, method("rpg_kl"))
    plain = gradient(method("rpg_kl", **{"objective.surrogate": Importance()}), d)
    for name in DIRECTIONS:
        assert_allclose(gradient(_rpg(name, 0.0), d), plain, atol=1e-12)
        assert_allclose(gradient(_rpg(f"{name}_reinforce", 0.0), d), plain, atol=1e-12)
    found = [_push(_rpg(name, 0.1), 1.0, 2.0) for name in DIRECTIONS]
    assert_allclose(found, [2.1, 2.0, 1.9, 2.0, 2.0, 2.0])


def _measures() -> tuple[Array, Array, Array]:
    """Parameters of a policy of 3 tokens, the old policy and the rewards."""
    rng = np.random.default_rng(0)
    return rng.standard_normal(3), np.exp(log_softmax(rng.standard_normal(3))), rng.standard_normal(3)


def _kl(p: Array, q: Array) -> Any:
    """KL between measures, which need not sum to 1."""
    xp = namespace(p)
    return xp.sum(p * xp.log(p / q) - p + q)


def _objective(name: str, pi: Any, old: Any, reward: Any, beta: float) -> Any:
    directions = {"f": _kl(old, pi), "r": _kl(pi, old), "j": (_kl(old, pi) + _kl(pi, old)) / 2}
    return namespace(pi).sum(pi * reward) - beta * directions[name.removeprefix("u")[0]]


@pin("rpg_kl")
def rpg_enumeration() -> None:
    """Over 3 tokens the expected loss has the gradient of E_pi[R] - beta KL, exactly, in each direction and form.

    With the unnormalised directions that holds also of measures that sum to nothing in particular.
    """
    for name, form, beta in itertools.product(DIRECTIONS, ("", "_reinforce"), (0.1, 1.0)):
        _enumerated(name, form, beta, normalised=True)
    for name, form in itertools.product(("ufkl", "urkl", "ujs"), ("", "_reinforce")):
        _enumerated(name, form, 0.3, normalised=False)


def _enumerated(name: str, form: str, beta: float, normalised: bool) -> None:
    theta, old, reward = (convert(x, autodiff()) for x in _measures())
    xp = namespace(theta)
    what = _rpg(name + form, beta).override({"objective.aggregate": "TokenSum"})

    def log_pi(at: Array) -> Array:
        return log_softmax(at) if normalised else at

    def expected(moved: dict[str, Array]) -> Array:
        logp = log_pi(moved["theta"])
        one = Decisions(logp=logp[:, None], logp_old=xp.log(old)[:, None], advantage=reward[:, None])
        return xp.sum(what.loss(one).per_decision[:, 0] * old)

    def exact(moved: dict[str, Array]) -> Array:
        return -_objective(name, xp.exp(log_pi(moved["theta"])), old, reward, beta)

    found, true = (value_and_gradient(f, {"theta": theta})[1]["theta"] for f in (expected, exact))
    assert_allclose(found, true, atol=1e-10, err_msg=f"{name}{form}")


@pin("rpg_kl")
def rpg_zero_sets() -> None:
    """Pushed by w A' where A' >= 0 and w <= 1.28, or A' < 0 and 0.8 <= w < 10; nowhere else. By A', not by A."""
    ratios = (0.05, 0.79, 0.81, 1.0, 1.27, 1.29, 9.9, 10.1)
    for name, w, a in itertools.product(DIRECTIONS, ratios, (-1.0, -0.05, 0.0, 0.05, 1.0)):
        clipped, free = _rpg(f"{name}_reinforce_clip", 0.1), _rpg(f"{name}_reinforce", 0.1)
        inner: Any = free.objective.surrogate.replace(within=Widths(0.2, 0.28))  # type: ignore[attr-defined]
        whole = -float(inner.coefficient(one_decision(w, a))[0, 0])
        kept = w <= 1.28 if whole >= 0 else 0.8 <= w < 10
        assert_allclose(_push(clipped, w, a), whole if kept else 0.0, atol=1e-12, err_msg=f"{name} w={w} A={a}")


@pin("rpg_kl")
def rpg_dual_clip() -> None:
    """The differentiable form under a dual clip: RKL and URKL clip their penalty too, FKL and UFKL never do."""
    for name, w, rest in [("fkl", 2.0, 0.1), ("ufkl", 2.0, -0.1), ("rkl", 2.0, 0.0), ("urkl", 2.0, 0.0)]:
        assert_allclose(_push(_rpg(f"{name}_dual_clip", 0.1), w, 1.0), rest, atol=1e-12)
    for name in DIRECTIONS[:4]:
        inside = [_push(_rpg(f"{name}{form}", 0.1), 1.1, 1.0) for form in ("", "_dual_clip")]
        assert_allclose(inside[0], inside[1])


@pin("rpg_kl")
def rpg_released() -> None:
    """The released default cuts the ratio: w = 1.5 counts as 1.28, w = 0.5 as 0.8; nothing is left out."""
    for w, cut in [(1.5, 1.28), (0.5, 0.8), (1.1, 1.1)]:
        assert_allclose(_push(_rpg("released", 0.1), w, 1.0), cut + 0.1 * (1 - cut))
        assert_allclose(_push(_rpg("rkl_reinforce_cut", 0.1), w, 1.0), cut - 0.1 * cut * (math.log(cut) + 1))


@pin("rpg_kl")
def rpg_estimates() -> None:
    """E_old[w - 1 - ln w] = UKL(old || pi), and E_pi[1/w - 1 + ln w] = UKL(pi || old) = E_old of its weighed form."""
    theta, old, _ = _measures()
    pi = np.exp(theta)  # sums to nothing in particular
    log_w = np.log(pi / old)
    backward = np.sum(old * np.log(old / pi) - old + pi)
    forward = np.sum(pi * np.log(pi / old) - pi + old)
    assert_allclose(np.sum(old * SampledOldKL(estimator=K3()).of(log_w)), backward)
    assert_allclose(np.sum(pi * K3()(log_w)), forward)
    assert_allclose(np.sum(old * SampledNewKL(estimator=K3()).of(log_w)), forward)
    assert_allclose(np.sum(old * SampledSymmetricKL().of(log_w)), (forward + backward) / 2)


@pin("rpg_kl", "cpgd")
def derivatives_of_the_penalties() -> None:
    """What a penalty says of its own slope is the slope of its loss."""
    log_w = np.array([-3.0, -0.5, 0.1, 0.18, 0.19, 2.0])
    penalties: list[SampledKL] = [made(estimator=k) for made in (SampledOldKL, SampledNewKL) for k in (K1(), K3())]
    for penalty in [*penalties, SampledSymmetricKL(), SampledOldKL(estimator=TruncatedK3(0.2))]:
        there = convert(log_w, autodiff())
        slope = value_and_gradient(lambda at, kl=penalty: namespace(at["x"]).sum(kl.of(at["x"])), {"x": there})[1]["x"]  # type: ignore[misc]
        assert_allclose(convert(slope, "NumPy"), penalty.derivative(log_w), atol=1e-12, err_msg=penalty.label())


def _groups(rewards: list[list[float]], lengths: int = 3) -> Decisions:
    """Groups of answers of equal length."""
    rng = np.random.default_rng(0)
    flat = np.ravel(rewards)
    logp = -rng.random((flat.size, lengths))
    group = np.repeat(np.arange(len(rewards)), len(rewards[0]))
    return Decisions(logp=logp, logp_old=logp, reward=flat, group=group, mask=np.ones_like(logp))


@pin("gpg")
def gpg_factor() -> None:
    """Four groups, one of equal rewards: 4/3; all informative: 1; none: the loss is 0."""
    mixed, equal = [1.0, 0.0, 0.0], [1.0, 1.0, 1.0]
    scale = InformativeScaled()
    assert_allclose(float(scale.factor(_groups([mixed] * 3 + [equal]))), 4 / 3)
    assert float(scale.factor(_groups([mixed] * 4))) == 1
    nothing = _groups([equal] * 4)
    assert float(scale.factor(nothing)) == 1
    assert float(method("gpg").loss(method("gpg").prepare(nothing)).value) == 0
    assert not gradient(method("gpg"), method("gpg").prepare(nothing)).any()


@pin("gpg")
def gpg_keeps_the_scale() -> None:
    """Groups without a signal, left out with factor 1 or kept with it: the same gradient, for equal lengths."""
    gpg = method("gpg")
    kept = gradient(gpg, gpg.prepare(_groups([[1.0, 0.0, 0.0]] * 3 + [[1.0, 1.0, 1.0]] * 5)))
    alone = gradient(gpg, gpg.prepare(_groups([[1.0, 0.0, 0.0]] * 3)))
    assert_allclose(kept[:9], alone)
    assert not kept[9:].any()


@pin("gpg")
def gpg_is_grpo_on_the_old_policy() -> None:
    """With the deviation in the advantage and factor 1 its gradient is grpo's at r = 1 under the mean over tokens."""
    gpg = method("gpg", **{"credit.credit": GroupNormalised(), "credit.cap": 1.0})
    grpo = method("grpo", **{"objective.reference.coef": 0.0, "objective.aggregate": "TokenMean"})
    d = _groups([[1.0, 0.0, 0.5], [0.2, 0.9, 0.4]])
    assert_allclose(gradient(gpg, gpg.prepare(d)), gradient(grpo, grpo.prepare(d)), atol=1e-12)


@pin("gpg")
def gpg_resampling() -> None:
    """Nothing is dropped; what an engine goes on asking for are the groups whose rewards differ."""
    d = _groups([[1.0, 0.0], [1.0, 1.0]])
    assert_array_equal(ThresholdResampling().keep(d), [True] * 4)
    assert_array_equal(ThresholdResampling().wanted(d), [True, True, False, False])


@pin("cpgd")
def cpgd_coefficients() -> None:
    """-A inside and 0 outside, never with r in it: 1 at r = 0.5 (ppo 0.5), at r = 5 and A = -1 too (ppo 5)."""
    for r, a, expected in [(0.5, 1, -1), (1.19, 1, -1), (1.21, 1, 0), (5, -1, 1), (0.81, -1, 1), (0.79, -1, 0)]:
        assert_allclose(coefficient(LogClip(), r, a), expected, atol=1e-12)
        if expected:
            assert_allclose(coefficient(Importance(), r, a), expected * r)


@pin("cpgd")
def cpgd_bounds() -> None:
    """The logarithm is clipped to [-0.223144, 0.182322]; the loss inside is -A log r."""
    assert_allclose([loss_at(LogClip(), 0.1, -1), loss_at(LogClip(), 9.0, 1)], [-0.223144, -0.182322], atol=1e-6)
    assert_allclose([loss_at(LogClip(), 0.1, 2), loss_at(LogClip(), 9.0, -2)], [-2 * math.log(0.1), 2 * math.log(9)])
    assert_allclose(loss_at(LogClip(dual=3.0), 9.0, -2), 2 * math.log(3))


@pin("cpgd")
def cpgd_drift() -> None:
    """The drift pulls by 0 at r = 1, 0.1 at 1.1, 0.2 from 1.2 on, -0.5 at 0.5, each times its coefficient."""
    free = method("cpgd", **{"objective.trust.controller": Constant(1.0)})
    for r, expected in [(1, 0), (1.1, 0.1), (2, 0.2), (50, 0.2), (0.5, -0.5)]:
        assert_allclose(gradient(free, one_decision(r, 0.0)), [[expected]], atol=1e-12)
    kl, near = SampledOldKL(estimator=TruncatedK3(0.2)), np.array([-0.5, 0.1])
    assert_allclose(kl.of(near), SampledOldKL(estimator=K3()).of(near))  # the same below log 1.2


@pin("cpgd")
def cpgd_weights() -> None:
    """Four groups, one without a spread: 4/3; eight, seven without: 3, the cap."""
    mixed, equal = [1.0, 0.0], [1.0, 1.0]
    credit = method("cpgd").credit
    for groups, factor in [([mixed] * 3 + [equal], 4 / 3), ([mixed] + [equal] * 7, 3.0), ([equal] * 2, 1.0)]:
        d = _groups(groups)
        assert credit is not None
        assert_allclose(credit(d).advantage, factor * GroupCentred()(d).advantage, atol=1e-12)


@pin("minirl")
def minirl_weights() -> None:
    """The weight of 0.3 / 0.2 is 1.5; that of 0.3 / 0.05 is the cap of 5; nothing differentiates it."""
    for behaviour, weight in [(0.2, 1.5), (0.05, 5.0)]:
        d = _mismatched(now=0.3, old=0.3, behaviour=behaviour)
        assert_allclose(BehaviourWeight()(d, None, d.advantage), [[weight]])
        assert_allclose(gradient(method("minirl"), d), [[-weight]])


def _mismatched(now: float, old: float, behaviour: float, advantage: float = 1.0) -> Decisions:
    logp, logp_old, logp_behaviour = (np.log([[p]]) for p in (now, old, behaviour))
    return Decisions(logp=logp, logp_old=logp_old, logp_behaviour=logp_behaviour, advantage=np.array([[advantage]]))


@pin("minirl")
def minirl_mask() -> None:
    """Left out by pi / pi_old alone: r > 1.27 for good, r < 0.8 for bad decisions; the weight does not enter."""
    for now, advantage, kept in [
        (0.26, 1, False),
        (0.25, 1, True),
        (0.15, -1, False),
        (0.17, -1, True),
        (0.9, -1, True),
    ]:
        d = _mismatched(now=now, old=0.2, behaviour=0.3, advantage=advantage)
        expected = -min(now / 0.3, 5) * advantage if kept else 0.0
        assert_allclose(gradient(method("minirl"), d), [[expected]], atol=1e-12)


@pin("minirl")
def minirl_on_policy() -> None:
    """Where all three policies agree it is REINFORCE with the group's mean as baseline, summed over tokens."""
    minirl = method("minirl")
    d = minirl.prepare(_groups([[1.0, 0.0, 0.5], [0.2, 0.9, 0.4]]))
    d = d.replace(logp_behaviour=d.logp)
    assert_allclose(gradient(minirl, d), -d.advantage / 6, atol=1e-12)


@pin("minirl")
def minirl_first_order() -> None:
    """d = 0.01, -0.02, 0.03: the product of 1 + d less 1 is 0.019494, their sum 0.02."""
    steps = np.array([0.01, -0.02, 0.03])
    d = Decisions(logp=np.log1p(steps)[None], logp_behaviour=np.zeros((1, 3)), advantage=np.ones((1, 3)))
    weight = BehaviourWeight(100.0)(d, None, d.advantage)
    assert_allclose([np.prod(weight) - 1, np.sum(weight - 1)], [0.019494, 0.02], atol=1e-6)


@pin("minirl")
def minirl_denominator() -> None:
    """A token that is left out counts in no denominator: the others' gradients stay what they are."""
    minirl = method("minirl")
    d = batch(0, minirl)
    d = d.replace(logp=d.logp_old)
    moved = convert_decisions(d, "NumPy").logp.copy()
    first = tuple(np.argwhere((d.mask != 0) & (d.advantage > 0))[0])
    moved[first] += 1.0
    before, after = gradient(minirl, d), gradient(minirl, d.replace(logp=moved))
    assert before[first] != 0 == after[first]
    others = np.ones_like(before, dtype=bool)
    others[first] = False
    assert_allclose(before[others], after[others])


@pin("rpg_kl", "cpgd", "minirl")
def rules_for_what_is_kept() -> None:
    """OneSided leaves out by the side that the advantage pulls to; DualSided also bad decisions from its bound on."""
    r = np.array([[0.5, 1.0, 1.5, 20.0]])
    d = Decisions(logp=np.log(r), logp_old=np.zeros_like(r), advantage=np.ones_like(r))
    assert_array_equal(OneSided()(d, r, d.advantage), [[True, True, False, False]])
    assert_array_equal(OneSided()(d, r, -d.advantage), [[False, True, True, True]])
    assert_array_equal(DualSided()(d, r, -d.advantage), [[False, True, True, False]])
    held = Score(RatioWeight(), DualSided()), RegularisedScore(weight=RatioWeight(), keep=DualSided())
    none = held[1].override({"coef": 0.0})
    assert_allclose(none(d), held[0](d))
