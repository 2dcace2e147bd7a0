"""Methods of the language-model literature."""

from __future__ import annotations

from ..credit import GroupCentred, GroupNormalised, LeaveOneOut
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ..objective.divergence import ReferenceKL
from ..objective.policy import SAPO, Cispo, Clip, PolicyGradient, PolicyObjective, Widths
from ..objective.ratio import SequenceMeanRatio, SequenceProductRatio
from ..reward import KLInReward, SoftOverlong
from ..selection import DynamicSampling
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)

GRPO = Method(
    key="grpo",
    title="Group Relative Policy Optimization",
    home="language",
    source=Source(
        paper="DeepSeekMath: Pushing the Limits of Mathematical Reasoning in Open Language Models",
        year=2024,
        arxiv="2402.03300",
        code="verl trainer/ppo/core_algos.py; TRL trainer/grpo_trainer.py",
        differences="TRL adds 1e-4 to the deviation, drops the KL term and averages over tokens; verl averages "
        "over tokens too.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.2)), aggregate=SeqMeanTokenMean(), reference=ReferenceKL(coef=0.04)
    ),
    step=_STEP,
    training=Training(group_size=64),
    relations=("low = high in dapo gives the same loss per decision", "L = 1: gspo with the same widths"),
)

DR_GRPO = Method(
    key="dr_grpo",
    title="GRPO done right: no bias by difficulty or length",
    home="language",
    source=Source(
        paper="Understanding R1-Zero-Like Training: A Critical Perspective",
        year=2025,
        arxiv="2503.20783",
        code="TRL loss_type='dr_grpo'; verl seq-mean-token-sum-norm",
        differences="verl's mode does not divide by the number of answers and, unless told otherwise, uses the "
        "padded width as the length.",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2)), aggregate=SeqMeanTokenSumNorm()),
    step=_STEP,
    training=Training(group_size=8),
    relations=("its advantage is (G-1)/G times rloo's",),
)

DAPO = Method(
    key="dapo",
    title="Decoupled Clip and Dynamic Sampling Policy Optimization",
    home="language",
    source=Source(
        paper="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        year=2025,
        arxiv="2503.14476",
        code="verl-recipe dapo/; verl workers/reward_manager/dapo.py; TRL loss_type='dapo'",
        differences="the paper's overlong penalty saturates at -1 beyond the limit; verl's goes on, but answers "
        "cannot be longer there.",
    ),
    reward=(SoftOverlong(),),
    credit=GroupNormalised(),
    selection=(DynamicSampling(),),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.28)), aggregate=TokenMean()),
    step=_STEP,
    training=Training(minibatches=16, group_size=16),
    relations=("high = low: grpo's loss per decision without the KL term",),
)

GSPO = Method(
    key="gspo",
    title="Group Sequence Policy Optimization",
    home="language",
    source=Source(
        paper="Group Sequence Policy Optimization",
        year=2025,
        arxiv="2507.18071",
        code="verl compute_policy_loss_gspo; TRL importance_sampling_level='sequence'",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(3e-4, 4e-4), ratio=SequenceMeanRatio()), aggregate=SeqMeanTokenMean()
    ),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=("on-policy its gradient is grpo's", "one decision per answer: grpo with the same widths"),
)

CISPO = Method(
    key="cispo",
    title="Clipped Importance-Sampling-weight Policy Optimization",
    home="language",
    source=Source(
        paper="MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention",
        year=2025,
        arxiv="2506.13585",
        code="verl compute_policy_loss_cispo; TRL loss_type='cispo'",
        differences="the paper cuts only from above and gives no number; the cap of 5 is TRL's advice. verl cuts on "
        "both sides: variant 'released'.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=Cispo(), aggregate=TokenMean()),
    step=_STEP,
    training=Training(group_size=8),
    variants=(("released", (("objective.surrogate", Cispo(cap=1.2, floor=0.8)),)),),
    relations=("at r = 1 its gradient is grpo's", "cap = inf, floor = 0: the importance-weighted gradient"),
)

SAPO_METHOD = Method(
    key="sapo",
    title="Soft Adaptive Policy Optimization",
    home="language",
    source=Source(
        paper="Soft Adaptive Policy Optimization",
        year=2025,
        arxiv="2511.20347",
        code="verl compute_policy_loss_sapo; TRL loss_type='sapo'",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(surrogate=SAPO(), aggregate=SeqMeanTokenMean()),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=("at r = 1 its gradient is grpo's", "tau -> 0: the plain importance-weighted gradient"),
)

RLOO = Method(
    key="rloo",
    title="REINFORCE Leave-One-Out",
    home="language",
    source=Source(
        paper="Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback in LLMs",
        year=2024,
        arxiv="2402.14740",
        code="TRL trainer/rloo_trainer.py; verl compute_rloo_outcome_advantage",
        confidence="medium",
        differences="TRL clips the ratio of the whole answer instead of using plain REINFORCE: variant 'released'. "
        "The KL coefficient 0.05 is TRL's. The paper was recalled, the libraries read.",
    ),
    reward=(KLInReward(coef=0.05),),
    credit=LeaveOneOut(),
    objective=PolicyObjective(surrogate=PolicyGradient(), aggregate=SeqMeanTokenSum()),
    step=_STEP,
    training=Training(group_size=4),
    variants=(
        (
            "released",
            (
                ("objective.surrogate", Clip(Widths(0.2, 0.2), ratio=SequenceProductRatio())),
                ("objective.aggregate", SeqMeanTokenMean()),
                ("training.group_size", 2),
            ),
        ),
    ),
    relations=("two answers: A = +-(R_1 - R_2)", "its advantage is G/(G-1) times dr_grpo's"),
)

METHODS = (GRPO, DR_GRPO, DAPO, GSPO, CISPO, SAPO_METHOD, RLOO)
