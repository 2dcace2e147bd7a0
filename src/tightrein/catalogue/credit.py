"""Methods whose contribution is credit or selection."""

from __future__ import annotations

import math

from ..credit import (
    BetaTracker,
    GroupNormalised,
    LengthAdaptiveGAE,
    MonteCarloValues,
    SmoothStandardised,
    TurnGAE,
)
from ..method import Method, Source, Training
from ..objective.aggregate import SeqSumTokenMean, TokenMean, TurnMean
from ..objective.divergence import ReferenceKL
from ..objective.estimators import K3
from ..objective.policy import Clip, PolicyObjective, Widths
from ..objective.policy.bounds import ProbabilityBounds
from ..objective.ratio import TurnMeanRatio
from ..objective.term import PositiveImitation
from ..objective.value import TurnValueLoss, ValueLoss
from ..relations import Equals, Limit
from ..selection import InformativeTokens, MaximumVariance
from ..selection.curriculum import UncertaintyCurriculum
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)
_FREE = {"reference.coef": 0.0}  # grpo without its KL term
_AS_PPO = {"low": 0.2, "high": 0.2}

DCPO = Method(
    key="dcpo_dynamic_clip",
    title="Dynamic Clipping Policy Optimization",
    home="language",
    source=Source(
        paper="DCPO: Dynamic Clipping Policy Optimization",
        year=2025,
        arxiv="2509.02333",
        code="lime-RL/DCPO verl/trainer/ppo/core_algos.py: get_clip_low_high, compute_dcpo_outcome_advantage",
        differences="the paper's table has low = 0.16, high = 0.2; the scripts run 0.2 and 0.28: variant 'released'. "
        "The paper averages over the tokens of each answer and does not divide by their number; the code's "
        "only-token-mean averages over all tokens of a micro-batch, which is the same only where that is one answer. "
        "Several groups of one prompt in a batch are our addition.",
    ),
    credit=SmoothStandardised(),
    objective=PolicyObjective(surrogate=Clip(ProbabilityBounds(), dual=10.0), aggregate=SeqSumTokenMean()),
    step=_STEP,
    training=Training(minibatches=16, group_size=16),
    variants=(("released", (("objective.surrogate.bounds", ProbabilityBounds(low=0.2, high=0.28)),)),),
    relations=(
        Equals("grpo", "advantage", theirs={"credit.eps": 0.0}),  # at a prompt's first visit, as at the start
        Equals("grpo", mine={"bounds": Widths(0.2, 0.2), "dual": None}, theirs=_FREE),
    ),
)

SINGLE_STREAM_SPO = Method(
    key="single_stream_spo",
    title="Single-stream Policy Optimization",
    home="language",
    source=Source(
        paper="Single-stream Policy Optimization",
        year=2025,
        arxiv="2509.13232",
        code="verl-project/verl-recipe spo/spo_ray_trainer.py: fit, _get_spo_rho",
        differences="where a batch asks a prompt twice the code keeps what the last answer alone would have left; here "
        "both count. The code draws from the next chunk of the data, by the same weights, and measures the drift "
        "after an update; the language engine before it, so that as many updates lie between.",
    ),
    credit=BetaTracker(),
    curriculum=UncertaintyCurriculum(),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.28), dual=10.0), aggregate=TokenMean()),
    step=_STEP,
    training=Training(minibatches=8, group_size=1),
    relations=(Equals("dapo", mine={"dual": None}),),
)

D3S = Method(
    key="d3s",
    title="Dynamic Dual-Level Down-Sampling",
    home="language",
    source=Source(
        paper="Learning More with Less: A Dynamic Dual-Level Down-Sampling Framework for Efficient Policy Optimization",
        year=2025,
        arxiv="2509.22115",
        read="excerpt",
        confidence="low",
        reconstruction=True,
        differences="the abstract gives both criteria and that the shares grow; the linear schedule and its numbers, "
        "the solver, how ties are broken and the clipping are ours. Code was promised, not found.",
    ),
    credit=GroupNormalised(),
    selection=(MaximumVariance(), InformativeTokens()),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2)), aggregate=TokenMean()),
    step=_STEP,
    training=Training(group_size=8),
    variants=(("within_groups", (("selection.maximum_variance.within_groups", True),)),),
    relations=(
        Equals(
            "grpo",
            "loss",
            mine={"maximum_variance.share.start": 1.0, "informative_tokens.share.start": 1.0},
            theirs=_FREE | {"objective.aggregate": TokenMean()},
            whole=True,
        ),
    ),
)

VAPO = Method(
    key="vapo",
    title="Value-model-based Augmented PPO",
    home="language",
    source=Source(
        paper="VAPO: Efficient and Reliable Reinforcement Learning for Advanced Reasoning Tasks",
        year=2025,
        arxiv="2504.05118",
        read="excerpt",
        confidence="medium",
        differences="no official code. Lambda's formula, its alpha and the losses were read in reviews of the paper, "
        "the numbers after alpha partly recalled. The paper does not say what becomes of answers shorter than "
        "1 / alpha; AReaL gives them lambda 0, as here. The critic's learning rate is the engine's own.",
    ),
    credit=LengthAdaptiveGAE(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.28)),
        aggregate=TokenMean(),
        value=ValueLoss(coef=0.5),
        terms=(PositiveImitation(coef=0.1),),
    ),
    step=_STEP,
    training=Training(minibatches=16, group_size=16, value_pretraining=50),
    relations=(
        Limit("ppo_clip", "advantage", setting="credit.alpha", to=math.inf, theirs={"gamma": 1.0, "lam": 1.0}),
        Equals("ppo_clip", "loss", mine={"positive_imitation.coef": 0.0, "high": 0.2}, theirs={"value.coef": 0.5}),
    ),
)

TURN_PPO = Method(
    key="turn_ppo",
    title="Turn-level PPO",
    home="language",
    source=Source(
        paper="Turn-PPO: Turn-Level Advantage Estimation with PPO for Improved Multi-Turn RL in Agentic LLMs",
        year=2025,
        arxiv="2512.17008",
        read="excerpt",
        confidence="medium",
        reconstruction=True,
        differences="no public code. gamma and lambda, one advantage and one clip per turn were read in summaries; "
        "that the turn's ratio is the geometric mean of its tokens' is secondary: ratio=TurnProductRatio is the "
        "other reading.",
    ),
    credit=TurnGAE(gamma=0.99, lam=0.9, standardise=True),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.2), ratio=TurnMeanRatio()), aggregate=TurnMean(), value=TurnValueLoss(coef=0.5)
    ),
    step=_STEP,
    training=Training(minibatches=4),
    relations=(
        Equals("ppo_clip", "loss", theirs={"lam": 0.9, "value.coef": 0.5}, on="one decision per answer", whole=True),
        Equals("gspo", "loss", mine={"value.coef": 0.0}, theirs=_AS_PPO, on="one decision per answer"),
    ),
)

VINEPPO = Method(
    key="vineppo",
    title="VinePPO: values from Monte-Carlo continuations",
    home="language",
    source=Source(
        paper="VinePPO: Refining Credit Assignment in RL Training of LLMs",
        year=2024,
        arxiv="2410.01679",
        code="McGill-NLP/VinePPO src/treetune/episode_generators/math_episode_generator_with_mc_advantages.py",
        differences="the code fills values that it has not sampled, at the end of an answer, from behind; here all "
        "are sampled. It keeps the KL estimate within [0, 10] and adds 1e-8 to a variance, not to a deviation.",
    ),
    credit=TurnGAE(gamma=1.0, lam=0.0, values=MonteCarloValues(samples=9)),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.2)),
        aggregate=TokenMean(),
        reference=ReferenceKL(coef=1e-4, estimator=K3()),
        standardise=True,
    ),
    step=_STEP,
    training=Training(epochs=2, minibatches=8, group_size=8),
    relations=(
        Equals("grpo", mine={"objective.standardise": False}, theirs={"reference.coef": 1e-4}),
        Equals(
            "turn_ppo",
            "advantage",
            theirs={"gamma": 1.0, "lam": 0.0, "credit.standardise": False},
        ),
    ),
)

METHODS = (DCPO, SINGLE_STREAM_SPO, D3S, VAPO, TURN_PPO, VINEPPO)
