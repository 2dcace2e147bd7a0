"""Methods that learn from pairs, from relative rewards, and from several reward models."""

from __future__ import annotations

from ..anchor.reference import Moving
from ..credit import GAE
from ..method import Method, Source, Training
from ..objective.answer import ToReference
from ..objective.group import (
    DiscriminativeObjective,
    ListwiseObjective,
    MeanRatio,
    PairMean,
    PairSum,
    RegressionObjective,
)
from ..objective.pair import Logistic, PairObjective, Squared
from ..objective.policy import Clip, PolicyObjective
from ..objective.value import ValueLoss
from ..relations import Equals, Limit
from ..reward import EnsembleReward, KLInReward
from ..step import Adam

_STEP = Adam(learning_rate=1e-6, max_grad_norm=1.0)
_NO_KL = {"reward.kl_in_reward.coef": 0.0}

DPO = Method(
    key="dpo",
    title="Direct Preference Optimization",
    home="language",
    source=Source(
        "Direct Preference Optimization: Your Language Model is Secretly a Reward Model", 2023, "2305.18290",
        code="TRL trainer/dpo_trainer.py loss_type='sigmoid'; OpenRLHF models/loss.py DPOLoss",
        differences="the learning rate is TRL's.",
    ),
    objective=PairObjective(Logistic(beta=0.1)),
    step=_STEP,
    experience="pairs",
    relations=(Equals("ipo", "gradient", on="the reference", scale=0.005),),
)  # fmt: skip

IPO = DPO.replace(
    key="ipo",
    title="Identity Preference Optimization",
    source=Source(
        paper="A General Theoretical Paradigm to Understand Learning from Human Preferences",
        year=2023,
        arxiv="2310.12036",
        code="TRL trainer/dpo_trainer.py loss_type='ipo'; OpenRLHF models/loss.py DPOLoss(ipo=True)",
        differences="the paper and OpenRLHF sum over tokens; TRL takes the mean over those of each answer: "
        "variant 'released'. The paper's tau is beta here.",
    ),
    objective=PairObjective(Squared(beta=0.1)),
    variants=(("released", (("objective.log_ratio.per_token", True),)),),
    relations=(Equals("copg", "loss", mine={"beta": 0.05}, on="pairs", scale=100.0),),
)

TR_DPO = DPO.replace(
    key="tr_dpo",
    title="DPO with a reference that follows (Trust Region DPO)",
    source=Source(
        "Learn Your Reference Model for Real Good Alignment", 2024, "2404.09656",
        code="TRL trainer/callbacks.py SyncRefModelCallback",
        confidence="medium",
        differences="the paper mixes (soft) or copies every 512 steps (hard); TRL mixes every 512 steps, which is what "
        "stands here: variants 'soft' and 'hard' are the paper's. Its abstract was read, its numbers were recalled.",
    ),
    objective=PairObjective(Logistic(beta=0.05)),
    anchor=Moving(alpha=0.6, every=512),
    variants=(("soft", (("anchor.every", 1),)), ("hard", (("anchor.alpha", 1.0),))),
    relations=(Equals("dpo", "loss", mine={"beta": 0.1}),),  # the rest of it is the moving reference
)  # fmt: skip

REBEL = Method(
    key="rebel",
    title="Regressing Relative Rewards",
    home="language",
    source=Source(
        paper="REBEL: Reinforcement Learning via Regressing Relative Rewards",
        year=2024,
        arxiv="2404.16767",
        code="ZhaolinGao/REBEL src/tldr/rebel.py",
        differences="beta is the paper's 1 / eta; the code's loss is the paper's times eta^2 (eta = 1: the same). The "
        "code fixes the score of an answer that does not end at -1. Beyond two answers: the mean over all pairs.",
    ),
    reward=(KLInReward(coef=0.05),),
    objective=RegressionObjective(beta=1.0, spread=PairMean()),
    step=_STEP.replace(learning_rate=3e-6),
    training=Training(epochs=4, group_size=2),
    relations=(Equals("gvpo", "loss", theirs={"beta": 1.0}, scale=4.0),),
)

GVPO = Method(
    key="gvpo",
    title="Group Variance Policy Optimization",
    home="language",
    source=Source(
        paper="GVPO: Group Variance Policy Optimization for Large Language Model Post-Training",
        year=2025,
        arxiv="2504.19599",
        code="jszkc/GVPO GVPO/gvpo_core_algos.py compute_policy_loss_gvpo",
        differences="the code sums over the answers of a micro-batch and holds the group's mean constant, which leaves "
        "the gradient as it is; here prompts are averaged.",
    ),
    objective=RegressionObjective(beta=0.1),
    step=_STEP,
    training=Training(minibatches=4, group_size=4),
    relations=(
        Equals("rloo", "gradient", theirs=_NO_KL, on="the old policy", whole=True, scale=0.1),  # scale: beta
    ),
)

COPG = Method(
    key="copg",
    title="Contrastive Policy Gradient",
    home="language",
    source=Source(
        paper="Contrastive Policy Gradient: Aligning LLMs on sequence-level scores in a supervised-friendly fashion",
        year=2024,
        arxiv="2406.19185",
        read="excerpt",
        confidence="medium",
        differences="the loss of a pair was read in a review, that of k answers in the Command A report; beta depends "
        "on the task.",
    ),
    objective=RegressionObjective(beta=0.1, log_ratio=ToReference(), spread=PairSum()),
    step=_STEP,
    training=Training(group_size=2),
    relations=(
        Equals("gvpo", "loss", theirs={"log_ratio": "ToReference"}, on="groups of two", scale=4.0),
        Equals("rloo", "gradient", theirs=_NO_KL, on=("the reference", "groups of two"), whole=True, scale=0.4),
        Equals("ipo", "loss", theirs={"beta": 0.05}, on="pairs", scale=0.01),
    ),
)

DISCO = Method(
    key="disco",
    title="Discriminative Constrained Optimization",
    home="language",
    source=Source(
        paper="DisCO: Reinforcing Large Reasoning Models with Discriminative Constrained Optimization",
        year=2025,
        arxiv="2505.12366",
        code="Optimization-AI/DisCO verl/trainer/ppo/core_algos.py compute_policy_loss_disco_logL",
        differences="the code's log-sum-exp has the right gradient and a value of about 1; its entry for the ratio "
        "score cannot run. Here the log-mean-exp is computed as the paper has it. Variants: 'ratio' scores by the "
        "mean ratio, 'basic' is DisCO-b.",
    ),
    objective=DiscriminativeObjective(),
    step=_STEP.replace(learning_rate=2e-6),
    training=Training(minibatches=4, group_size=8),
    variants=(
        ("ratio", (("objective.score", MeanRatio()), ("objective.tau", 1.0))),
        ("basic", (("objective.tau", None),)),
    ),
    relations=(Limit("disco", "loss", theirs={"tau": None}, setting="objective.tau", to=float("inf")),),
)

RM_ENSEMBLE = Method(
    key="rm_ensemble",
    title="Conservative rewards from an ensemble of reward models",
    home="language",
    source=Source(
        paper="Reward Model Ensembles Help Mitigate Overoptimization",
        year=2023,
        arxiv="2310.02743",
        code="tlc4418/llm_optimization src/reward_modeling/scoring/ppo_reward_functions.py, src/bon/ensemble_rm.py",
        differences="the paper's variance divides by K, that of its PPO code by K - 1: variant 'released'. The KL "
        "coefficient of 0.1 adapts to a target of 6 in the code and is constant here. Best-of-n has coef 0.5.",
    ),
    reward=(EnsembleReward(), KLInReward(coef=0.1)),
    credit=GAE(gamma=1.0, lam=0.95, standardise=True),
    objective=PolicyObjective(Clip(), value=ValueLoss(coef=1.0, clip_range=0.2)),
    step=_STEP,
    training=Training(epochs=4),
    variants=(("released", (("reward.ensemble_reward.reduction.unbiased", True),)),),
    relations=(Equals("rm_ensemble", "advantage", mine={"reduction.coef": 0.0}, theirs={"reduction": "MeanScore"}),),
)

ADPO = Method(
    key="adpo_anchored",
    title="Anchored Direct Preference Optimization, listwise",
    home="language",
    source=Source(
        paper="ADPO: Anchored Direct Preference Optimization",
        year=2025,
        arxiv="2510.18913",
        code="the author's fork of verl, verl/trainer/adpo/core_algos.py adpo_policy_loss",
        confidence="medium",
        differences="the anchor is the policy that answered, as in the code; the later papers' is the reference: set "
        "log_ratio=ToReference. The code also bends the temperature by entropy and reward, which is left out. Earlier "
        "versions of the paper have a pairwise loss.",
    ),
    objective=ListwiseObjective(),
    step=_STEP,
    training=Training(group_size=8),
    relations=(
        Limit(
            "dpo",
            "loss",
            mine={"log_ratio": "ToReference", "tau": 10.0},
            setting="objective.sharpness",
            to=0.0,
            on="pairs",
        ),
    ),
)

METHODS = (DPO, IPO, TR_DPO, REBEL, GVPO, COPG, DISCO, RM_ENSEMBLE, ADPO)
