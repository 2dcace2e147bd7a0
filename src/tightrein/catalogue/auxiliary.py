"""Methods that learn something beside their objective."""

from __future__ import annotations

from ..auxiliary import AchievementDistillation, AchievementMemory, QuantileCritic, QuantileDistillation
from ..credit import GAE
from ..method import Method, Source, Training
from ..objective.policy import Clip, PolicyObjective
from ..objective.value import NormalisedValueLoss, ValueLoss
from ..relations import Equals
from ..step import Adam

PG_RAINBOW = Method(
    key="pg_rainbow",
    title="PPO whose critic is told quantiles of the return, learned off-policy",
    home="control",
    source=Source(
        paper="PG-Rainbow: Using Distributional Reinforcement Learning in Policy Gradient Methods",
        year=2024,
        arxiv="2407.13146",
        read="excerpt",
        confidence="low",
        reconstruction=True,
        differences="no code; of the paper abstract, introduction and the equation of the critic were read. Ours are: "
        "the quantiles at the middles of equal parts, of the action with the largest mean; f as the mean and a small "
        "network; a replay of 20,000 transitions, 128 steps on 64 of them after every rollout, the target network "
        "copied every 32. The network is that of IQN (1806.06923); PPO's settings are those of Atari.",
    ),
    credit=GAE(standardise=True),
    objective=PolicyObjective(surrogate=Clip(), value=ValueLoss(coef=1.0), entropy=0.01),
    step=Adam(learning_rate=2.5e-4, eps=1e-5, max_grad_norm=0.5),
    heads=QuantileCritic(),
    auxiliary=QuantileDistillation(),
    training=Training(epochs=4, minibatches=4, envs=8, rollout=128),
    relations=(Equals("ppo_clip", "loss", mine={"objective.entropy": 0.0}, theirs={"objective.value.coef": 1.0}),),
)

ACHIEVEMENT_DISTILLATION = Method(
    key="achievement_distillation",
    title="PPO that learns to predict the next achievement and to recognise it in other episodes",
    home="control",
    source=Source(
        paper="Discovering Hierarchical Achievements in Reinforcement Learning via Contrastive Learning",
        year=2023,
        arxiv="2307.03486",
        code="snu-mllab/Achievement-Distillation algorithm/ppo_ad.py, model/ppo_ad.py, configs/ppo_ad.yaml",
        differences="the code was read, of the paper the abstract. It takes minibatches from one episode at a time, "
        "here they hold decisions of all; it matches all achievements of an episode, here the first 32. It marks them "
        "by the environment's flags and by rewards above 0.1, here by the rewards alone. Its network is an IMPALA of "
        "1,024 features with layer norm; here it is what --network and --hidden say, with tanh.",
    ),
    credit=GAE(gamma=0.95, lam=0.65, standardise=True),
    objective=PolicyObjective(surrogate=Clip(), value=NormalisedValueLoss(coef=1.0), entropy=0.01),
    step=Adam(learning_rate=3e-4, max_grad_norm=0.5),
    heads=AchievementMemory(),
    auxiliary=AchievementDistillation(),
    training=Training(epochs=3, minibatches=8, envs=8, rollout=512),
    relations=(Equals("ppo_clip", "loss", mine={"objective.entropy": 0.0, "objective.value": ValueLoss(coef=2.0)}),),
)

METHODS = (PG_RAINBOW, ACHIEVEMENT_DISTILLATION)
