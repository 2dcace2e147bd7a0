"""Surrogates with a drift or a divergence of their own."""

from __future__ import annotations

import math
from typing import Any

from ..anchor.controller import Constant
from ..credit import GroupCentred, GroupNormalised, InformativeScaled
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenSum, TokenMean
from ..objective.divergence import SampledKL, SampledNewKL, SampledOldKL, SampledSymmetricKL
from ..objective.estimators import K1, K3, TruncatedK3
from ..objective.policy import (
    BehaviourWeight,
    Clip,
    DualSided,
    Importance,
    LogClip,
    OneSided,
    PolicyGradient,
    PolicyObjective,
    RatioWeight,
    RegularisedScore,
    Score,
    Widths,
)
from ..relations import Equals, Limit
from ..selection import ThresholdResampling
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)

# RPG: the direction of the KL, each as a penalty of coefficient 1e-4. JS and UJS, RPG's names for the mean of both
# directions, are one and the same: what normalisation adds to one it takes from the other.
_BETA = Constant(1e-4)
_DIRECTIONS: dict[str, SampledKL] = {
    "fkl": SampledOldKL(_BETA, K1()),
    "ufkl": SampledOldKL(_BETA, K3()),
    "rkl": SampledNewKL(_BETA, K1()),
    "urkl": SampledNewKL(_BETA, K3()),
    "js": SampledSymmetricKL(_BETA),
    "ujs": SampledSymmetricKL(_BETA),
}
_WIDTHS, _DUAL = Widths(0.2, 0.28), 10.0
_HELD = DualSided(_WIDTHS, dual=_DUAL)


def _clipped(kl: SampledKL) -> RegularisedScore:
    """REINFORCE form, RPG-style clip."""
    return RegularisedScore(weight=RatioWeight(), keep=_HELD, kl=kl, within=_WIDTHS)


def _weights_cut(kl: SampledKL) -> RegularisedScore:
    """REINFORCE form with cut ratios, as the released code has it by default."""
    return RegularisedScore(weight=RatioWeight(cap=1.28, floor=0.8), kl=kl, within=_WIDTHS)


def _dual_clipped(kl: SampledKL) -> dict[str, Any]:
    """The differentiable form under a dual clip: a penalty that the ratio multiplies is clipped with it."""
    if isinstance(kl, SampledOldKL):
        return {"objective.surrogate": Clip(_WIDTHS, dual=_DUAL), "objective.trust": kl}
    return {"objective.surrogate": RegularisedScore(weight=RatioWeight(), keep=_HELD, kl=kl, within=None)}


def _forms(name: str, kl: SampledKL) -> dict[str, dict[str, Any]]:
    """The variants of one direction."""
    free = RegularisedScore(weight=RatioWeight(), kl=kl, within=None)
    return {
        name: {"objective.surrogate": Importance(), "objective.trust": kl},
        f"{name}_dual_clip": _dual_clipped(kl),
        f"{name}_reinforce": {"objective.surrogate": free},
        f"{name}_reinforce_cut": {"objective.surrogate": _weights_cut(kl)},
        f"{name}_reinforce_clip": {"objective.surrogate": _clipped(kl)},
    }


RPG_KL = Method(
    key="rpg_kl",
    title="KL-regularised policy gradients, exact off-policy in every direction",
    home="language",
    source=Source(
        paper="On the Design of KL-Regularized Policy Gradient Algorithms for LLM Reasoning",
        year=2025,
        arxiv="2505.17508",
        code="complex-reasoning/RPG verl/trainer/ppo/core_algos.py",
        differences="the default is the REINFORCE form with the unnormalised forward KL (the code's own default) and "
        "the paper's clip, by the sign of the regularised advantage. The released loss cuts the ratio to the bounds "
        "unless told otherwise: variant 'released'. Its clip goes by the sign of the raw advantage, in its third "
        "version by the opposite of the regularised one. In its JS a sign is wrong: its own comment is followed here. "
        "It cuts terms of the KL to +-10; c is 3 in the code and 10 in the scripts.",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(surrogate=_clipped(_DIRECTIONS["ufkl"]), aggregate=TokenMean()),
    step=_STEP,
    training=Training(minibatches=16, group_size=16),
    variants=(
        ("released", (("objective.surrogate", _weights_cut(_DIRECTIONS["ufkl"])),)),
        *(
            (form, tuple(settings.items()))
            for name, kl in _DIRECTIONS.items()
            for form, settings in _forms(name, kl).items()
        ),
    ),
    relations=(
        Equals(
            "rpg_kl",
            "gradient",
            mine={"objective.surrogate": RegularisedScore(weight=RatioWeight(), within=None)},
            theirs={"objective.surrogate": Importance(), "objective.trust": _DIRECTIONS["ufkl"]},
        ),
        Equals("cispo", "gradient", mine={"kl.controller.coef": 0.0}, theirs={"cap": math.inf}, on="the old policy"),
        Equals(
            "dual_clip_ppo",
            "gradient",
            mine={"kl.controller.coef": 0.0, "dual": 3.0, "objective.surrogate.keep.bounds.high": 0.2},
            theirs={"objective.value.coef": 0.0, "objective.entropy": 0.0, "objective.standardise": False},
        ),
    ),
)

GPG = Method(
    key="gpg",
    title="Group Policy Gradient: REINFORCE that makes up for groups without a signal",
    home="language",
    source=Source(
        paper="GPG: A Simple and Strong Reinforcement Learning Baseline for Model Reasoning",
        year=2025,
        arxiv="2504.02546",
        code="AMAP-ML/GPG open-r1/src/open_r1/gpg_trainer.py; verl compute_policy_loss_gpg",
        differences="the share of groups with a signal that is asked for is 0.6 in the paper, 0.5 and 0.4 in the "
        "scripts: variant 'released'. verl counts rewards other than 0 instead of groups with a spread. The paper also "
        "divides by the deviation in some runs: --set credit.credit=GroupNormalised.",
    ),
    credit=InformativeScaled(),
    selection=(ThresholdResampling(),),
    objective=PolicyObjective(surrogate=PolicyGradient(), aggregate=TokenMean()),
    step=_STEP,
    training=Training(group_size=8),
    variants=(("released", (("share", 0.5),)),),
    relations=(
        Equals("grpo", "gradient", theirs={"objective.reference.coef": 0.0}, on=("the old policy", "equal lengths")),
        Equals("dr_grpo", "advantage", mine={"credit.cap": 1.0}),
    ),
)

CPGD = Method(
    key="cpgd",
    title="Clipped Policy Gradient Optimization with Policy Drift",
    home="language",
    source=Source(
        paper="CPGD: Toward Stable Rule-based Reinforcement Learning for Language Models",
        year=2025,
        arxiv="2505.12504",
        code="sii-research/siiRL siirl/dag_worker/core_algos.py, siirl/engine/actor/dp_actor.py",
        confidence="medium",
        differences="the authors' own loss was not to be had: their README names the drift's coefficient 0.01 and its "
        "bound 0.2. The clip and the drift's gradient, sg[min(r - 1, c)] logp, are siiRL's, which has 0.001 and 2 and "
        "advantages over the deviation: variant 'siirl'. Here the drift is a loss with that very gradient.",
    ),
    credit=InformativeScaled(cap=3.0),
    objective=PolicyObjective(
        surrogate=LogClip(Widths(0.2, 0.2)),
        aggregate=TokenMean(),
        trust=SampledOldKL(Constant(0.01), TruncatedK3(0.2)),
    ),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    variants=(
        ("siirl", (("credit", GroupNormalised()), ("objective.trust", SampledOldKL(Constant(1e-3), TruncatedK3(2.0))))),
    ),
    relations=(
        Equals("gpg", "gradient", on="the old policy"),
        Equals("gpg", "gradient", mine={"objective.trust": None, "low": 1.0, "high": 1e20}),
        Equals(
            "cpgd",
            "gradient",
            mine={"objective.trust": None},
            theirs={"objective.trust": None, "objective.surrogate": Score(keep=OneSided())},
        ),
    ),
)

MINIRL = Method(
    key="minirl",
    title="MiniRL: the first-order approximation of the sequence objective, and routing replay",
    home="language",
    source=Source(
        paper="Stabilizing Reinforcement Learning with LLMs: Formulation and Practices",
        year=2025,
        arxiv="2512.01374",
        read="excerpt",
        confidence="medium",
        differences="no code was released. Read: the abstract and two notes with the equations; the widths 0.2 and "
        "0.27 and the cap of 5 are from memory. Routing replay is the language engine's, for any method: --routing old "
        "(R2; advised with 2 minibatches) or --routing sampler (R3; with 4 or more).",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(
        surrogate=Score(BehaviourWeight(5.0), OneSided(Widths(0.2, 0.27))), aggregate=SeqMeanTokenSum()
    ),
    step=_STEP,
    training=Training(minibatches=2, group_size=8),
    relations=(
        Equals(
            "rloo",
            "gradient",
            on=("the old policy", "the old policy sampled"),
        ),
        Limit(
            "minirl",
            "gradient",
            mine={"objective.surrogate.keep": None},
            theirs={"objective.surrogate": Importance()},
            on="the old policy sampled",
            setting="objective.surrogate.weight.cap",
            to=math.inf,
        ),
    ),
)

METHODS = (RPG_KL, GPG, CPGD, MINIRL)
