"""Methods of the language-model literature."""

from __future__ import annotations

from ..credit import GroupCentred, GroupNormalised, LeaveOneOut
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ..objective.divergence import ReferenceKL
from ..objective.policy import SAPO, Clip, PolicyGradient, PolicyObjective, RatioWeight, Score, Widths
from ..objective.ratio import SequenceMeanRatio, SequenceProductRatio
from ..relations import Equals, Limit
from ..reward import KLInReward, SoftOverlong
from ..selection import DynamicSampling
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)
_FREE = {"objective.reference.coef": 0.0}  # grpo without its KL term
_AS_GRPO = {"low": 0.2, "high": 0.2}

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
    relations=(
        Equals("gspo", mine=_FREE, theirs=_AS_GRPO, on="one decision per answer"),
        Equals("dr_grpo", mine=_FREE | {"objective.aggregate": SeqMeanTokenSumNorm(4)}, theirs={"length": 4}),
    ),
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
        differences="verl, unless told otherwise, uses the padded width as the length (before 0.9 it did not divide by "
        "the number of answers).",
    ),
    credit=GroupCentred(),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2)), aggregate=SeqMeanTokenSumNorm()),
    step=_STEP,
    training=Training(group_size=8),
    relations=(
        Equals("rloo", "advantage", scale="(G-1)/G", theirs={"reward.kl_in_reward.coef": 0.0}),
        Equals("grpo", theirs=_FREE),
    ),
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
    relations=(
        Equals("grpo", mine={"high": 0.2}, theirs=_FREE),
        Equals("grpo", "loss", mine={"high": 0.2}, theirs=_FREE, on="equal lengths"),
    ),
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
        differences="verl's is the form by token, gspo_token: the same but for weights or advantages of single tokens. "
        "It cuts the log-ratio at 10.",
    ),
    credit=GroupNormalised(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(3e-4, 4e-4), ratio=SequenceMeanRatio()), aggregate=SeqMeanTokenMean()
    ),
    step=_STEP,
    training=Training(minibatches=4, group_size=8),
    relations=(
        Equals("grpo", "gradient", theirs=_FREE, on="the old policy", whole=True),
        Equals("grpo", mine=_AS_GRPO, theirs=_FREE, on="one decision per answer"),
    ),
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
    objective=PolicyObjective(surrogate=Score(RatioWeight(cap=5.0)), aggregate=TokenMean()),
    step=_STEP,
    training=Training(group_size=8),
    variants=(("released", (("objective.surrogate.weight", RatioWeight(cap=1.2, floor=0.8)),)),),
    relations=(
        Equals("dapo", "gradient", on="the old policy"),
        Equals("dapo", "gradient", mine={"cap": 1e9}, theirs={"objective.surrogate": "Importance"}),
    ),
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
    relations=(
        Equals("grpo", "gradient", theirs=_FREE, on="the old policy", whole=True),
        Limit(
            "sapo",
            "gradient",
            mine={"tau_neg": 1e-6},
            theirs={"objective.surrogate": "Importance"},
            setting="objective.surrogate.tau_pos",
            to=0.0,
        ),
    ),
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
    relations=(
        Equals("dr_grpo", "advantage", scale="G/(G-1)", mine={"reward.kl_in_reward.coef": 0.0}),
        Equals("dr_grpo", "advantage", scale=2.0, mine={"reward.kl_in_reward.coef": 0.0}, on="groups of two"),
    ),
)

METHODS = (GRPO, DR_GRPO, DAPO, GSPO, CISPO, SAPO_METHOD, RLOO)
