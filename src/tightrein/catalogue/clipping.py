"""Clipped ratios: other levels, other bounds, other gradients beyond them."""

from __future__ import annotations

import math

from ..method import Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSum, TokenMean
from ..objective.levels import SequenceTokenRatio
from ..objective.policy import (
    Clip,
    ElasticBounds,
    GeometricClip,
    HybridClip,
    PolicyObjective,
    PreservingClip,
    Widths,
)
from ..objective.ratio import SequenceMeanRatio
from ..objective.term import PositiveImitation
from ..objective.value import ValueLoss
from ..relations import Bound, Equals, Limit
from .classic import PPO_CLIP
from .language import DAPO, GRPO, GSPO

_FREE = {"objective.reference.coef": 0.0}  # grpo without its KL term
_AS_TOKEN_MEAN = {**_FREE, "objective.aggregate": TokenMean()}
_NARROW = Widths(3e-4, 4e-4)

GSPO_TOKEN = GSPO.replace(
    key="gspo_token",
    title="GSPO with a gradient and an advantage for each token",
    source=Source(
        paper="Group Sequence Policy Optimization",
        year=2025,
        arxiv="2507.18071",
        code="verl compute_policy_loss_gspo; TRL experimental gspo_token",
        differences="verl cuts the log of the ratio at 10, we at 20.",
    ),
    objective=PolicyObjective(surrogate=Clip(_NARROW, ratio=SequenceTokenRatio()), aggregate=SeqMeanTokenMean()),
    relations=(
        Equals("gspo"),
        Equals("gspo", "gradient"),
        Equals("grpo", mine={"objective.surrogate.bounds": Widths()}, theirs=_FREE, on="one decision per answer"),
    ),
)

GMPO = GSPO.replace(
    key="gmpo",
    title="Geometric-Mean Policy Optimization",
    source=Source(
        paper="Geometric-Mean Policy Optimization",
        year=2025,
        arxiv="2507.20673",
        code="callsys/GMPO; verl compute_policy_loss_geo_mean; TRL experimental gmpo",
        differences="verl and TRL count answers without a token in the mean. The bounds are widths of the log-ratio.",
    ),
    objective=PolicyObjective(surrogate=GeometricClip(0.4, 0.4), aggregate=SeqMeanTokenMean()),
    relations=(
        Equals(
            "gspo",
            mine={"objective.surrogate": GeometricClip(math.inf, math.inf)},
            theirs={"objective.surrogate": "Importance", "objective.surrogate.ratio": "SequenceMeanRatio"},
        ),
        Equals("grpo", "gradient", theirs=_FREE, on="the old policy", whole=True),
    ),
)

LUSPO = GSPO.replace(
    key="luspo",
    title="Length-Unbiased Sequence Policy Optimization",
    source=Source(
        paper="Length-Unbiased Sequence Policy Optimization: Revealing and Controlling Response Length Variation in "
        "RLVR",
        year=2026,
        arxiv="2602.05261",
        code="TRL loss_type='luspo'; murphy4122/LUSPO",
        differences="TRL counts answers without a token in the mean. The widths are those that TRL's documentation "
        "quotes from section 5.1.",
    ),
    objective=PolicyObjective(
        surrogate=Clip(Widths(2e-3, 2.5e-3), ratio=SequenceMeanRatio()), aggregate=SeqMeanTokenSum()
    ),
    relations=(
        Equals("gspo", mine={"objective.surrogate.bounds": _NARROW}),
        Equals("gspo", "loss", mine={"objective.surrogate.bounds": _NARROW}, on="equal lengths", scale=7.0),
        Equals("gspo", "loss", mine={"objective.surrogate.bounds": _NARROW}, on="one decision per answer"),
    ),
)

GPPO = DAPO.replace(
    key="gppo",
    title="Gradient-Preserving Clipping Policy Optimization (Klear-Reasoner)",
    source=Source(
        paper="Klear-Reasoner: Advancing Reasoning Capability via Gradient-Preserving Clipping Policy Optimization",
        year=2025,
        arxiv="2508.07629",
        code="suu990901/KlearReasoner verl/trainer/ppo/core_algos.py compute_gppo_loss",
        differences="the released code adds a dual clip at 3, beyond which bad tokens lose their gradient after all: "
        "variant 'released'. The paper prints the likelihood term without its logarithm, the code has it.",
    ),
    reward=(),
    selection=(),
    objective=PolicyObjective(surrogate=PreservingClip(), aggregate=TokenMean(), terms=(PositiveImitation(0.1),)),
    training=Training(minibatches=16, group_size=8),
    variants=(("released", (("objective.surrogate.dual", 3.0),)),),
    relations=(
        Equals("dapo"),
        Equals("dapo", "gradient", mine={"positive_imitation.coef": 0.0}, on="the old policy"),
    ),
)

CE_GPPO = GPPO.replace(
    key="ce_gppo",
    title="Coordinating Entropy via Gradient-Preserving Policy Optimization",
    source=Source(
        paper="CE-GPPO: Coordinating Entropy via Gradient-Preserving Clipping Policy Optimization in Reinforcement "
        "Learning",
        year=2025,
        arxiv="2509.20712",
        code="Kwai-Klear/CE-GPPO verl/trainer/ppo/core_algos.py compute_gppo_loss_general_beta",
        differences="0.75 below is that of the 7B runs, 0.5 that of 1.5B: variant 'small'. The dual clip at 10 is that "
        "of the authors' scripts; by itself the function has 3.",
    ),
    objective=PolicyObjective(
        surrogate=PreservingClip(Widths(0.2, 0.2), below=0.75, above=1.0, dual=10.0), aggregate=TokenMean()
    ),
    variants=(("small", (("objective.surrogate.below", 0.5),)),),
    relations=(
        Equals("gppo", mine={"below": 1.0, "objective.surrogate.bounds.high": 0.28}, theirs={"dual": 10.0}),
        Equals("grpo", "gradient", mine={"below": 0.0, "above": 0.0, "dual": None}, theirs=_AS_TOKEN_MEAN),
    ),
)

DHPO = GRPO.replace(
    key="dhpo",
    title="Dynamic Hybrid Policy Optimization",
    source=Source(
        paper="Orchestrating Tokens and Sequences: Dynamic Hybrid Policy Optimization for RLVR",
        year=2026,
        arxiv="2601.05607",
        read="excerpt",
        confidence="medium",
        reconstruction=True,
        differences="abstract and two readers' notes: each branch is clipped before they are mixed, the entropy weight "
        "is held constant and lies between the least and the largest entropy. Not seen: over which tokens those are "
        "taken (here: the answer's), where the pessimistic side is taken (here: in each branch, as in both parents; "
        "variant 'jointly': of the mixture) and the widths (here: those of the parents).",
    ),
    objective=PolicyObjective(surrogate=HybridClip(), aggregate=SeqMeanTokenMean()),
    training=Training(minibatches=4, group_size=16),
    variants=(
        ("entropy", (("objective.surrogate.weight", None),)),
        ("jointly", (("objective.surrogate.jointly", True),)),
    ),
    relations=(
        Equals("grpo", mine={"weight": 1.0, "objective.surrogate.token": Widths()}, theirs=_FREE),
        Equals("gspo_token", "gradient", mine={"weight": 0.0}),
        Equals("grpo", "gradient", theirs=_FREE, on="the old policy"),
    ),
)

ETR = GRPO.replace(
    key="etr",
    title="Outcome-Guided Elastic Trust Regions",
    source=Source(
        paper="ETR: Outcome-Guided Elastic Trust Regions for Policy Optimization",
        year=2026,
        arxiv="2601.03723",
        read="excerpt",
        confidence="low",
        reconstruction=True,
        differences="abstract and limitations alone: the widths grow with the size of the advantage and with the "
        "variance of the group's pass rate. Both forms, their weights of 0.5 and the limit of 0.5 are ours.",
    ),
    objective=PolicyObjective(surrogate=Clip(ElasticBounds()), aggregate=SeqMeanTokenMean()),
    training=Training(minibatches=4, group_size=8),
    relations=(
        Equals("grpo", mine={"micro": 0.0, "macro": 0.0, "objective.surrogate.bounds.high": 0.2}, theirs=_FREE),
        Equals("grpo", "gradient", theirs=_FREE, on="the old policy"),
        Limit("grpo", mine={"widest": 0.2}, theirs=_FREE, setting="objective.surrogate.bounds.micro", to=math.inf),
    ),
)

PPO_VALUE_CLIP = PPO_CLIP.replace(
    key="ppo_value_clip",
    title="PPO with a value that gains nothing from moving far",
    source=Source(
        paper="none of its own: openai/baselines ppo2",
        year=2017,
        code="openai/baselines baselines/ppo2/model.py; vwxyzjn/cleanrl; verl compute_value_loss",
        differences="the range is the policy's in ppo2 and CleanRL, 0.5 in verl: variant 'verl'.",
    ),
    objective=PPO_CLIP.objective.replace(value=ValueLoss(coef=0.5, clip_range=0.2)),
    variants=(("verl", (("objective.value.clip_range", 0.5),)),),
    relations=(
        Equals("ppo_clip"),
        Bound("ppo_clip", "loss", theirs={"objective.value.coef": 0.5}),
        Equals("ppo_clip", "loss", mine={"clip_range": 1e9}, theirs={"objective.value.coef": 0.5}),
    ),
)

METHODS = (GSPO_TOKEN, GMPO, LUSPO, GPPO, CE_GPPO, DHPO, ETR, PPO_VALUE_CLIP)
