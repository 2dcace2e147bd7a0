"""Methods that look at the entropy, or at what answers share."""

from __future__ import annotations

import math

from ..credit import ConflictAware, EntropyTargeted, TokenNormalised
from ..method import Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqSumTokenMean, TokenMean
from ..objective.entropy import EmphasisedEntropy, EntropyBand
from ..objective.levels import OwnRatio
from ..objective.policy import (
    Clip,
    HeterogeneousClip,
    Importance,
    PolicyObjective,
    PreservingClip,
    UncertaintyWidths,
    Widths,
)
from ..objective.segments import EntropyWidths, RelativeEntropyWidths, SegmentMean, SegmentRatio
from ..relations import Equals, Limit
from ..reward import DistinctAnswers
from ..selection import DynamicSampling, EntropySegments, UncertaintyScale
from .language import DAPO, GRPO

_FREE = {"objective.reference.coef": 0.0}  # grpo without its KL term

HAPO = DAPO.replace(
    key="hapo",
    title="Heterogeneous Adaptive Policy Optimization",
    source=Source(
        paper="From Uniform to Heterogeneous: Tailoring Policy Optimization to Every Token's Nature",
        year=2025,
        arxiv="2509.16591",
        code="starriver030515/HAPO verl/trainer/ppo/core_algos.py, recipe/train.md",
        differences="the released code gives decisions below the quantile a positive u, so that what is meant for "
        "certain ones never happens: variant 'released'. It takes the present policy's entropies, anew for each "
        "micro-batch; here they are the old policy's, once for a batch.",
    ),
    credit=TokenNormalised(),
    selection=(DynamicSampling(), UncertaintyScale(quantile=0.8, tau=0.05)),
    objective=PolicyObjective(
        surrogate=HeterogeneousClip(UncertaintyWidths(0.2, 0.2, alpha=1.0), dual=10.0, beta=1.0), aggregate=TokenMean()
    ),
    variants=(("released", (("selection.uncertainty_scale.bug_compatible", True),)),),
    relations=(
        Equals("dapo", mine={"alpha": 0.0, "beta": 0.0}, theirs={"high": 0.2, "dual": 10.0}),
        Equals("dapo", "advantage", mine={"credit": "GroupNormalised"}),
    ),
)

ESPO_ENTROPY = GRPO.replace(
    key="espo_entropy",
    title="ESPO: one ratio and one clip width for decisions of like entropy",
    source=Source(
        paper="ESPO: Entropy Importance Sampling Policy Optimization",
        year=2025,
        arxiv="2512.00499",
        code="none released (ShopeeLLM/ESPO holds a README)",
        read="paper",
        confidence="medium",
        differences="version 2 was read. Its eq. 8 is taken as its text explains it, by the mean entropy of a part; "
        "the two parts, the fifth of an answer that was most uncertain and the rest, are those of section 4.4; in "
        "eq. 9 the second factor is 1 with a gradient, as in the GSPO-token that the paper says it follows (in print "
        "its denominator is the old policy). Variant 'relative': widths around those of GSPO, by the entropy of "
        "a part over that of its answer, whose decisions all weigh alike.",
    ),
    selection=(EntropySegments(groups=2, high=0.2),),
    objective=PolicyObjective(surrogate=Clip(EntropyWidths(scale=0.02), ratio=SegmentRatio()), aggregate=SegmentMean()),
    training=Training(minibatches=4, group_size=8),
    variants=(
        (
            "relative",
            (
                ("objective.surrogate.bounds", RelativeEntropyWidths(scale=4e-4)),
                ("objective.aggregate", SeqMeanTokenMean()),
            ),
        ),
    ),
    relations=(
        Equals(
            "gspo_token",
            mine={"groups": 1, "objective.surrogate.bounds": Widths(3e-4, 4e-4)},
        ),
        Equals(
            "gspo_token",
            mine={
                "groups": 1,
                "objective.surrogate.bounds": RelativeEntropyWidths(scale=4e-4, least=1.0, most=1.0),
            },
            theirs={"low": 4e-4, "high": 4e-4},
        ),
        Equals(
            "grpo",
            "gradient",
            mine={"objective.surrogate.bounds": Widths(0.2, 0.2)},
            theirs=_FREE,
            on="one decision per answer",
        ),
    ),
)

ERC = DAPO.replace(
    key="erc",
    title="Entropy Ratio Clipping",
    source=Source(
        paper="Entropy Ratio Clipping as a Soft Global Constraint for Stable Reinforcement Learning",
        year=2025,
        arxiv="2512.05591",
        code="Kwai-Klear/ERC verl/trainer/ppo/core_algos.py compute_policy_loss_grpo_erc, compute_policy_loss_gppo_erc",
        differences="the released code also has it on gppo: variant 'gppo'. The dual clip is that of its scripts; "
        "its weights for a sampler that differs are left out.",
    ),
    reward=(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.28), dual=10.0), aggregate=TokenMean(), correction=EntropyBand(0.95, 1.05)
    ),
    training=Training(minibatches=8, group_size=8),
    variants=(("gppo", (("objective.surrogate", PreservingClip(Widths(0.2, 0.2), dual=10.0)),)),),
    relations=(
        Equals(
            "dapo",
            "gradient",
            mine={"objective.correction.low": 0.0, "objective.correction.high": math.inf},
            theirs={"dual": 10.0},
        ),
        Equals("dapo", theirs={"dual": 10.0}),
        Equals("dapo", "gradient", theirs={"dual": 10.0}, on="the old policy"),
    ),
)

GTPO = GRPO.replace(
    key="gtpo",
    title="Group-relative Trajectory-based Policy Optimization",
    source=Source(
        paper="GTPO: Stabilizing Group Relative Policy Optimization via Gradient and Entropy Control",
        year=2025,
        arxiv="2508.03772",
        code="winstonsmith1897/GTPO gtpo/gtpo_training.py",
        differences="the code has an entropy threshold of 0.7, no switch, and divides each answer by the number of its "
        "conflicts: variant 'released'. It sums over the answers of a group; here they are averaged.",
    ),
    credit=ConflictAware(),
    objective=PolicyObjective(surrogate=Importance(ratio=OwnRatio()), aggregate=SeqMeanTokenMean()),
    training=Training(group_size=8),
    variants=(
        (
            "released",
            (
                ("credit.threshold", 0.7),
                ("credit.switch", False),
                ("credit.per_conflict", True),
                ("objective.aggregate", SeqSumTokenMean()),
            ),
        ),
    ),
    relations=(
        Equals(
            "dr_grpo",
            "advantage",
            mine={"good": 1.0, "bad": 1.0, "scale": 0.0, "threshold": math.inf},
            theirs={"length": 4},
        ),
    ),
)

DCPO_DISTRIBUTION = GRPO.replace(
    key="dcpo_distribution",
    title="Distribution-Centric Policy Optimization: right answers as another temperature would have them",
    source=Source(
        paper="Distribution-Centric Policy Optimization Dominates Exploration-Exploitation Trade-off",
        year=2026,
        arxiv="2601.12730",
        code="597358816/DCPO verl/trainer/ray_trainer.py",
        differences="the code divides by 0 in a batch without a right answer, and begins with an entropy of 0. Its "
        "README finds a target of 0.25 best: variant 'readme'.",
    ),
    credit=EntropyTargeted(target=0.5),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2), dual=3.0), aggregate=TokenMean()),
    training=Training(group_size=8),
    variants=(("readme", (("credit.target", 0.25),)),),
    relations=(
        Limit("grpo", "advantage", setting="credit.most", to=0.0),
        Equals("dapo", theirs={"high": 0.2, "dual": 3.0}),
    ),
)

_NO_BONUS = {"reward.distinct_answers.coef": 0.0}

DSDR = GRPO.replace(
    key="dsdr",
    title="Dual-Scale Diversity Regularization",
    source=Source(
        paper="DSDR: Dual-Scale Diversity Regularization for Exploration in LLM Reasoning",
        year=2026,
        arxiv="2602.19895",
        code="SUSTechBruce/DSDR (not available to us)",
        read="paper",
        confidence="medium",
        differences="the bound of the bonus is given no number: 1, at which it never acts. How formulas are found in "
        "an answer is not said. The paper compares an answer with all of its group; variant 'among_right' compares "
        "right ones with each other. Embeddings are a sentence encoder's there, here the policy's own.",
    ),
    reward=(DistinctAnswers(coef=1e-3, tau=5.0),),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.28)), aggregate=SeqMeanTokenMean(), terms=(EmphasisedEntropy(1e-3),)
    ),
    training=Training(minibatches=16, group_size=8),
    variants=(("among_right", (("reward.distinct_answers.among_right", True),)),),
    relations=(
        Equals("grpo", mine={"high": 0.2}, theirs=_FREE),
        Equals("grpo", "advantage", mine=_NO_BONUS),
        Equals(
            "grpo",
            "gradient",
            mine={**_NO_BONUS, "objective.terms.emphasised_entropy.coef": 0.0, "high": 0.2},
            theirs=_FREE,
            whole=True,
        ),
    ),
)

METHODS = (HAPO, ESPO_ENTROPY, ERC, GTPO, DCPO_DISTRIBUTION, DSDR)
