"""Methods that read more than log-probabilities: a masked input, the inside of the model, what answers share."""

from __future__ import annotations

import math

from ..anchor.controller import Constant
from ..credit import GroupCentred, SetCredit
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenSumNorm, TokenMean
from ..objective.divergence import ReferenceKL, SampledOldKL
from ..objective.perception import Perception
from ..objective.policy import Clip, PolicyObjective, Widths
from ..relations import Equals
from ..selection import CurvatureMask, DynamicSampling, GradientStep
from .language import GRPO

_PERCEPTION = "objective.terms.perception"
_CURVATURE = "selection.curvature_mask"
_FREE = {"objective.reference.coef": 0.0}
_AS_GRPO = {**_FREE, "high": 0.3}

PAPO_PERCEPTION = GRPO.replace(
    key="papo_perception",
    title="PAPO: learn from what the prompt changes",
    source=Source(
        paper="Perception-Aware Policy Optimization for Multimodal Reasoning",
        year=2025,
        arxiv="2507.06448",
        code="MikeWangWZHL/PAPO verl/workers/actor/dp_actor.py; an experimental trainer of TRL",
        differences="the paper masks image patches; here it is prompt tokens. It differentiates the masked look too; "
        "the code takes it once, of the old policy, averages over tokens and has a dual clip: variant 'released'. The "
        "cap of 10 on the divergence is the code's, and was there in the paper's runs. The paper prints r - log r - 1 "
        "with r = pi / pi_masked; the code has the inverse of r, which alone estimates the divergence that the paper "
        "names, and so has this. No reference, and the coefficients for that, are the paper's appendix F; 'reference' "
        "is PAPO_G for 7B, 'dapo' is PAPO_D.",
    ),
    objective=GRPO.objective.replace(surrogate=Clip(Widths(0.2, 0.3)), reference=ReferenceKL(), terms=(Perception(),)),
    training=GRPO.training.replace(group_size=5, minibatches=3),
    variants=(
        (
            "released",
            (
                ("objective.surrogate", Clip(Widths(0.2, 0.3), dual=3.0)),
                ("objective.aggregate", TokenMean()),
                (f"{_PERCEPTION}.through", False),
            ),
        ),
        (
            "reference",
            (
                ("objective.reference.coef", 0.01),
                (f"{_PERCEPTION}.coef", 0.02),
                (f"{_PERCEPTION}.entropy", 0.05),
            ),
        ),
        (
            "dapo",
            (
                ("objective.surrogate.bounds.high", 0.28),
                ("objective.aggregate", TokenMean()),
                ("selection", (DynamicSampling(rounds=20),)),
            ),
        ),
    ),
    relations=(
        Equals("grpo", "loss", mine={f"{_PERCEPTION}.coef": 0.0}, theirs=_AS_GRPO),
        Equals("grpo", theirs=_AS_GRPO),
    ),
)

CAPO_CURVATURE = GRPO.replace(
    key="capo_curvature",
    title="CAPO: no step on decisions that would move the policy too far",
    source=Source(
        paper="Stabilizing Policy Gradients for Sample-Efficient Reinforcement Learning in LLM Reasoning",
        year=2025,
        arxiv="2510.00819",
        code="luckeciano/stable-pg-llm src/open_r1/grpo_entropy_trainer.py",
        differences="the code divides by all answers, also by those it has masked as a whole, follows the schedule of "
        "the learning rate, and gives a token outside the 50 likeliest no alternative of its own; here it takes the "
        "place of the last. Sentences and whole batches as units are ablations of the paper and not here. The code was "
        "read, of the paper its theorem and a detailed note.",
    ),
    selection=(CurvatureMask(),),
    objective=GRPO.objective.replace(reference=ReferenceKL()),
    step=GRPO.step.replace(learning_rate=1.5e-5),
    training=GRPO.training.replace(group_size=8),
    variants=(
        (
            "dr_grpo",
            (
                ("credit", GroupCentred()),
                ("objective.aggregate", SeqMeanTokenSumNorm()),
                (f"{_CURVATURE}.max_gain", 5e-4),
                (f"{_CURVATURE}.max_shift", 1e-3),
            ),
        ),
        ("gradient", ((f"{_CURVATURE}.model", GradientStep()),)),
    ),
    relations=(
        Equals(
            "grpo",
            mine={f"{_CURVATURE}.max_gain": math.inf, f"{_CURVATURE}.max_shift": math.inf},
            theirs=_FREE,
            whole=True,
        ),
    ),
)

POLY_PPO = GRPO.replace(
    key="poly_ppo",
    title="Poly-PPO: credit for what a set of answers achieves together",
    source=Source(
        paper="Polychromic Objectives for Reinforcement Learning",
        year=2025,
        arxiv="2509.25424",
        code="three public replications; the authors' is not public",
        read="excerpt",
        confidence="medium",
        differences="the paper samples vines from states along a trajectory, and credits five of their steps by sets, "
        "the rest by GAE. Here the only such state is the prompt, and an answer as a whole is one step, as the "
        "authors do with language models later (2604.17654). The subsets are windows of a random order instead of "
        "independent draws: every answer is in equally many. Two answers are the same where their texts are.",
    ),
    credit=SetCredit(),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2)), trust=SampledOldKL(Constant(0.005))),
    step=GRPO.step.replace(learning_rate=1e-5),
    training=Training(epochs=2, group_size=8),
    relations=(
        Equals("dr_grpo", "advantage", mine={"credit.size": 1, "credit.sets": 64}),
        Equals("dapo", mine={"credit.size": 2, "objective.trust": None}, theirs={"high": 0.2}),
    ),
)

METHODS: tuple[Method, ...] = (PAPO_PERCEPTION, CAPO_CURVATURE, POLY_PPO)
