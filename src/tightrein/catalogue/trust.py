"""Ratio surrogates that strain the common mould."""

from __future__ import annotations

import math
from dataclasses import replace

from ..anchor.controller import Constant, DualAscent
from ..credit import GroupNormalised
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenMean, TokenMean
from ..objective.correction import DropCovariance, ProximalWeight, TruncatedImportance
from ..objective.divergence import CovarianceKL, RatioVariance
from ..objective.policy import PSPO, TROLL, BalancedBounds, Clip, Importance, PolicyObjective, Widths
from ..objective.ratio import ProximalRatio
from ..relations import Bound, Equals, Limit
from ..selection import DynamicSampling
from ..step import Adam
from .language import GRPO

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)

TROLL_METHOD = Method(
    key="troll",
    title="Trust Region Optimization for Large Language models",
    home="language",
    source=Source(
        paper="TROLL: Trust Regions improve Reinforcement Learning for Large Language Models",
        year=2025,
        arxiv="2510.03817",
        code="NiklasFreymuth/troll with pbecker93/discrete_trpl",
        read="excerpt",
        confidence="medium",
        differences="the objective and K = 64 with mass 1 - 1e-5 are from a detailed note on the paper; epsilon 0.05, "
        "alpha 1 and the interval of the multiplier from a third party's code, which holds the multiplier constant in "
        "the gradient. Here the gradient passes through it, which is how the projection is differentiable; the "
        "paper's own text on that was not seen.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=TROLL(), aggregate=SeqMeanTokenMean()),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=(
        Limit(
            "troll", theirs={"objective.surrogate": Importance()}, setting="objective.surrogate.epsilon", to=math.inf
        ),
        Bound("troll", theirs={"objective.surrogate.alpha": 0.0}),
    ),
)

BAPO = Method(
    key="bapo",
    title="Balanced Policy Optimization with adaptive clipping",
    home="language",
    source=Source(
        paper="BAPO: Stabilizing Off-Policy Reinforcement Learning for LLMs via Balanced Policy Optimization with "
        "Adaptive Clipping",
        year=2025,
        arxiv="2510.18927",
        code="WooooDyy/BAPO recipe/bapo/policy_loss.py",
        differences="the paper raises the upper bound first, weighs by pi_old, and asks for a share of 0.4 (its "
        "README: 0.5); the code moves the lower bound first, does not weigh, asks for 0.5 and searches a smaller "
        "range. The dual clip is the code's. The code was read, the paper in two notes.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=Clip(BalancedBounds(), dual=3.0), aggregate=TokenMean()),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    variants=(
        (
            "released",
            (
                (
                    "objective.surrogate.bounds",
                    BalancedBounds(low_max=0.8, high_max=2.0, share=0.5, lower_first=True, weighted=False),
                ),
            ),
        ),
    ),
    relations=(
        Equals("bapo", mine={"share": 0.0}, theirs={"objective.surrogate.bounds": Widths(0.4, 0.2)}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

R2VPO = Method(
    key="r2vpo",
    title="Ratio-Variance Regularized Policy Optimization",
    home="language",
    source=Source(
        paper="Ratio-Variance Regularized Policy Optimization for Efficient LLM Fine-tuning",
        year=2026,
        arxiv="2601.03320",
        read="excerpt",
        confidence="medium",
        reconstruction=True,
        differences="abstract and introduction were read (also of the later 2605.26784), not the tables: the target "
        "0.02 and the rate 0.1 of the dual step are ours. The start, 0.04, is a third party's, which keeps it "
        "constant: variant 'released'. Off-policy it is the same loss on samples of older policies, by their logp_old.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(
        surrogate=Importance(), aggregate=TokenMean(), trust=RatioVariance(controller=DualAscent(0.04))
    ),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    variants=(("released", (("objective.trust.controller", Constant(0.04)),)),),
    relations=(
        Equals("r2vpo", mine={"objective.trust.controller.coef": 0.0}, theirs={"objective.trust": None}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

_ENTROPY = Source(
    paper="The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
    year=2025,
    arxiv="2505.22617",
    code="PRIME-RL/Entropy-Mechanism-of-RL; verl compute_policy_loss_clip_cov, compute_policy_loss_kl_cov",
)

CLIP_COV = Method(
    key="clip_cov",
    title="Clip-Cov: a few tokens of high covariance lose their gradient",
    home="language",
    source=replace(
        _ENTROPY,
        differences="the authors' script for 7B widens the clip to [0, 2], as good as none: variant 'released'.",
    ),
    credit=GroupNormalised(),
    selection=(DynamicSampling(),),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.2)),
        aggregate=TokenMean(),
        correction=DropCovariance(share=2e-4, low=1.0, high=5.0),
    ),
    step=_STEP,
    training=Training(minibatches=8, group_size=8),
    variants=(("released", (("objective.surrogate.bounds", Widths(1.0, 1.0)),)),),
    relations=(
        Equals("dapo", mine={"objective.correction.low": math.inf}, theirs={"objective.surrogate.bounds.high": 0.2}),
    ),
)

KL_COV = CLIP_COV.replace(
    key="kl_cov",
    title="KL-Cov: a few tokens of high covariance are held to the old policy",
    source=replace(
        _ENTROPY,
        differences="the share is verl's and the authors' for 32B; for 7B they have 2e-3. The coefficient is the "
        "paper's; verl's configuration has 0.1: variant 'released'. Of equal covariances, as where all rewards are "
        "equal, verl takes the first, here all are taken.",
    ),
    objective=PolicyObjective(surrogate=Importance(), aggregate=TokenMean(), trust=CovarianceKL(Constant(1.0), 2e-4)),
    variants=(("released", (("objective.trust.controller", Constant(0.1)),)),),
    relations=(
        Equals("kl_cov", mine={"objective.trust.controller.coef": 0.0}, theirs={"objective.trust": None}),
        Equals("dapo", "gradient", on="the old policy"),
    ),
)

A3PO = Method(
    key="a3po",
    title="A-3PO: a proximal policy by staleness, without computing it",
    home="language",
    source=Source(
        paper="A-3PO: Accelerating Asynchronous LLM Training with Staleness-aware Proximal Policy Approximation",
        year=2025,
        arxiv="2512.06547",
        code="inclusionAI/AReaL areal/trainer/ppo/actor.py",
        differences="the widths 0.4 and the cap 5 are those of the authors' example; classic widths are 0.2.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.4, 0.4), ratio=ProximalRatio()), aggregate=TokenMean(), correction=ProximalWeight(5.0)
    ),
    step=_STEP,
    training=Training(minibatches=4, group_size=4),
    relations=(
        Equals(  # but for clip and cap the coefficient is pi / pi_behaviour
            "a3po",
            "gradient",
            mine={"objective.surrogate.bounds": Widths(1.0, math.inf), "objective.correction.cap": math.inf},
            theirs={"objective.surrogate": Importance(), "objective.correction": TruncatedImportance(math.inf)},
        ),
    ),
)

TIS = GRPO.replace(
    key="tis",
    title="Truncated importance sampling between sampler and trainer",
    source=Source(
        paper="Your Efficient RL Framework Secretly Brings You Off-Policy RL Training",
        year=2025,
        code="verl trainer/ppo/rollout_corr_helper.py; TRL vllm_importance_sampling_mode",
        differences="it goes with any loss; here with grpo's. TRL weighs whole answers, drops those beyond 3, and does "
        "so before the KL term: set level, drop and cap. verl weighs the penalties of kl_cov and dro too, here "
        "none is.",
    ),
    objective=GRPO.objective.replace(correction=TruncatedImportance(cap=2.0)),
    relations=(Equals("grpo", on="the old policy sampled"),),
)

PSPO_METHOD = Method(
    key="pspo",
    title="Probability Smoothing Policy Optimization",
    home="language",
    source=Source(
        paper="It's Not You, It's Clipping: A Soft Trust-Region via Probability Smoothing for LLM RL",
        year=2025,
        arxiv="2509.21282",
        read="excerpt",
        confidence="medium",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=PSPO(0.1), aggregate=SeqMeanTokenMean()),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=(
        Equals("pspo", mine={"smoothing": 0.0}, theirs={"objective.surrogate": Importance()}),
        Equals("grpo", "gradient", theirs={"objective.reference.coef": 0.0}, on="the old policy", scale=0.9),
    ),
)

METHODS = (TROLL_METHOD, BAPO, R2VPO, CLIP_COV, KL_COV, A3PO, TIS, PSPO_METHOD)
