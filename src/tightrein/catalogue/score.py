"""Score surrogates: the gradient of the log-probability, with a weight that is held constant."""

from __future__ import annotations

import math
from dataclasses import replace

from ..anchor.controller import Constant
from ..credit import GroupCentred, GroupNormalised
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ..objective.divergence import ReferenceKL, SampledOldKL
from ..objective.estimators import K2
from ..objective.offline import AnswerOldKL, Likelihood
from ..objective.policy import (
    AdvantageWeight,
    BinaryKL,
    BinaryTV,
    GammaWeight,
    MirrorWeight,
    OneSided,
    PolicyGradient,
    PolicyObjective,
    RatioWeight,
    Ring,
    Score,
    TwoSided,
    Widths,
)
from ..objective.ratio import SequenceMeanRatio, SequenceProductRatio, TokenRatio
from ..relations import Equals, Limit
from ..selection import BalancedSigns
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)
_KEEP, _WEIGHT, _SURROGATE = "objective.surrogate.keep", "objective.surrogate.weight", "objective.surrogate"
_PENALTY = "objective.trust.controller.coef"
_REINFORCE = {_KEEP: None}  # rec without its clip
_WIDE = Widths(0.6, 2.0)

_FAMILY = Source(
    paper="Group-Relative REINFORCE Is Secretly an Off-Policy Algorithm: Demystifying Some Myths About GRPO and Its "
    "Friends",
    year=2025,
    arxiv="2509.24203",
    code="Trinity-RFT rec_policy_loss.py, rec_advantage.py, examples/rec_gsm8k",
)

REC = Method(
    key="rec",
    title="REINFORCE with clipping as a mask, without importance weights",
    home="language",
    source=replace(
        _FAMILY,
        differences="the paper's REC-OneSide-NoIS is the default, the others of the family are variants.",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(surrogate=Score(keep=OneSided(Widths(0.2, 0.2)))),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    variants=(
        ("one_side_is", ((_WEIGHT, RatioWeight()),)),
        ("one_side_wide", ((_KEEP, OneSided(_WIDE)),)),
        ("two_side", ((_KEEP, TwoSided()),)),
        ("two_side_is", ((_KEEP, TwoSided()), (_WEIGHT, RatioWeight()))),
        ("ring", ((_KEEP, Ring()),)),
        ("ring_is", ((_KEEP, Ring()), (_WEIGHT, RatioWeight()))),
        (
            "gspo",
            (
                (_SURROGATE, Score(RatioWeight(), OneSided(Widths(3e-4, 4e-4)), ratio=SequenceMeanRatio())),
                ("objective.aggregate", SeqMeanTokenMean()),
            ),
        ),
        ("reinforce", ((_KEEP, None),)),
    ),
    relations=(
        Equals(
            "grpo",
            "gradient",
            mine={_WEIGHT: RatioWeight()},
            theirs={"objective.reference.coef": 0.0, "objective.aggregate": TokenMean()},
        ),
        Equals("rec", mine=_REINFORCE, theirs={_SURROGATE: PolicyGradient()}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

RED = REC.replace(
    key="red",
    title="REINFORCE on a better mixture of good and bad answers",
    source=replace(
        _FAMILY,
        differences="the default weighs (RED-Weight), variant 'drop' leaves bad answers out (RED-Drop). What is left "
        "out is not counted here; Trinity-RFT gives it advantage 0 and counts it in the mean.",
    ),
    objective=PolicyObjective(surrogate=Score(AdvantageWeight(1.0))),
    variants=(("drop", ((_SURROGATE, PolicyGradient()), ("selection", (BalancedSigns(),)))),),
    relations=(Limit("rec", theirs=_REINFORCE, setting=f"{_WEIGHT}.temperature", to=math.inf),),
)

OPMD = REC.replace(
    key="opmd",
    title="Online policy mirror descent: REINFORCE with a squared log-ratio",
    source=replace(
        _FAMILY,
        differences="the penalty is 0.1 (log r)^2, twice that times k2. Kimi k1.5 (arXiv 2501.12599) has it for whole "
        "answers: variant 'answer', with the same coefficient, which Kimi does not give.",
    ),
    objective=PolicyObjective(surrogate=PolicyGradient(), trust=SampledOldKL(Constant(0.2), K2())),
    variants=(
        (
            "answer",
            (
                ("objective.trust", AnswerOldKL(Constant(0.2), K2())),
                ("objective.aggregate", SeqMeanTokenSum()),
            ),
        ),
    ),
    relations=(
        Equals("rec", mine={_PENALTY: 0.0}, theirs=_REINFORCE),
        Equals("dro", theirs={_PENALTY: 0.2}),
        Equals("rec", "gradient", theirs=_REINFORCE, on="the old policy"),
    ),
)

OPMD_TRINITY = REC.replace(
    key="opmd_trinity",
    title="Online policy mirror descent as Trinity-RFT simplifies it",
    source=Source(
        paper="Trinity-RFT: A General-Purpose and Unified Framework for Reinforcement Fine-Tuning of Large Language "
        "Models",
        year=2025,
        arxiv="2505.17826",
        code="Trinity-RFT opmd_policy_loss.py, opmd_advantage.py",
        differences="the code was read, the paper not. Its other baseline, tau log mean exp(R / tau), is left out.",
    ),
    objective=PolicyObjective(surrogate=Score(MirrorWeight(1.0))),
    variants=(),
    relations=(
        Equals("rec", theirs=_REINFORCE, scale=0.5),
        Equals("rec", mine={_WEIGHT: MirrorWeight(0.0)}, theirs=_REINFORCE),
    ),
)

ASYMRE = REC.replace(
    key="asymre",
    title="Asymmetric REINFORCE: a baseline below the mean of the group",
    source=Source(
        paper="Asymmetric REINFORCE for off-Policy Reinforcement Learning: Balancing positive and negative rewards",
        year=2025,
        arxiv="2506.20520",
        code="Trinity-RFT rec_policy_loss.py (regularizer forward-kl), asymre_advantage.py",
        differences="the paper shifts the baseline, which is the same as this likelihood term wherever there is a "
        "group; its shift of -0.1 is the coefficient 0.1.",
    ),
    objective=PolicyObjective(surrogate=PolicyGradient(), trust=Likelihood(Constant(0.1))),
    variants=(),
    relations=(Equals("rec", mine={_PENALTY: 0.0}, theirs=_REINFORCE),),
)

DRO = REC.replace(
    key="dro",
    title="Direct Reward Optimisation with the group's mean as the value",
    source=Source(
        paper="Offline Regularised Reinforcement Learning for Large Language Models Alignment",
        year=2024,
        arxiv="2405.19107",
        code="verl compute_policy_loss_dro",
        read="code",
        confidence="medium",
        differences="this is verl's loss: of single tokens, towards the old policy, with any advantage. The paper has "
        "whole answers, the reference policy (variant 'reference', still of tokens) and a value network; its abstract "
        "was read. verl gives no coefficient: 0.1 is ours.",
    ),
    objective=PolicyObjective(surrogate=PolicyGradient(), trust=SampledOldKL(Constant(0.1), K2())),
    variants=(("reference", (("objective.trust", None), ("objective.reference", ReferenceKL(0.1, K2())))),),
    relations=(
        Equals("opmd", theirs={_PENALTY: 0.1}),
        Equals("rec", "gradient", theirs=_REINFORCE, on="the old policy"),
    ),
)

DPPO_TV = Method(
    key="dppo_tv",
    title="Divergence PPO: clipped where a token's probability moved too far",
    home="language",
    source=Source(
        paper="Rethinking the Trust Region in LLM Reinforcement Learning",
        year=2026,
        arxiv="2602.04879",
        code="verl compute_policy_loss_dppo_tv, compute_policy_loss_dppo_kl, examples/dppo_trainer",
        differences="the code was read, the paper in its abstract. The authors' script for verl clips no weight in "
        "effect and divides by a constant length: variant 'released'. They advise to compare with the policy that "
        "sampled instead of one recomputed.",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(surrogate=Score(RatioWeight(cap=20.0), BinaryTV(0.15, 0.15))),
    step=_STEP,
    training=Training(minibatches=8, group_size=16),
    variants=(("released", ((f"{_WEIGHT}.cap", 1e4), ("objective.aggregate", SeqMeanTokenSumNorm()))),),
    relations=(
        Equals("cispo", mine={_KEEP: None}, theirs={"cap": 20.0}),
        Equals("cispo", mine={_KEEP: BinaryTV(1.0, 1.0)}, theirs={"cap": 20.0}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

DPPO_KL = DPPO_TV.replace(
    key="dppo_kl",
    title="Divergence PPO: clipped where the KL divergence of taken or not is too large",
    objective=PolicyObjective(surrogate=Score(RatioWeight(cap=20.0), BinaryKL(0.05, 0.05))),
    relations=(
        Equals("cispo", mine={_KEEP: BinaryKL(math.inf, math.inf)}, theirs={"cap": 20.0}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

VESPO = Method(
    key="vespo",
    title="Variational Sequence-level Soft Policy Optimization",
    home="language",
    source=Source(
        paper="VESPO: Variational Sequence-level Soft Policy Optimization for Off-Policy LLM Training",
        year=2026,
        arxiv="2602.10693",
        code="FloyedShen/VESPO recipe/vespo/code/core_algos.py; TRL loss_type='vespo'",
        differences="both fold the correction for another sampler into the ratio; here the ratio is to logp_old, so "
        "give the sampler's log-probabilities there. They cut each token's log-ratio to 20, here their sum is cut.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=Score(GammaWeight(), ratio=SequenceProductRatio())),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=(
        Equals(
            "cispo",
            mine={_SURROGATE: Score(GammaWeight(1.0, 0.0, 1.0, 0.0), ratio=TokenRatio())},
            theirs={"cap": math.inf},
        ),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

METHODS = (REC, RED, OPMD, OPMD_TRINITY, ASYMRE, DRO, DPPO_TV, DPPO_KL, VESPO)
