"""Methods whose networks end in hyperbolic space."""

from __future__ import annotations

from ..credit import GAE
from ..heads import HyperbolicHeads
from ..method import Source, Training
from ..objective.value import CategoricalValueLoss, ValueLoss
from ..relations import Equals
from ..step import Adam
from .classic import PPO_CLIP

HYPERPP = PPO_CLIP.replace(
    key="hyperpp",
    title="PPO on a hyperboloid, with features of bounded length and a categorical critic",
    source=Source(
        paper="Understanding and Improving Hyperbolic Deep Reinforcement Learning",
        year=2025,
        arxiv="2512.14202",
        code="Probabilistic-and-Interactive-ML/hyper-rl src/rl/agents, src/hyperbolic_math, "
        "config/procgen_paper/hyperpp.yaml",
        differences="the code was read, of the paper the abstract. There policy and value share the encoder down to "
        "the bounded features; here they share what the network shares (a torso for images, memory), and each has "
        "bounded features of its own. The code computes on the hyperboloid in float64 and bounds the arguments of "
        "asinh accordingly; here in float32 with the same bound. Its encoder for vectors leaves normalisation and tanh "
        "out, so that nothing is bounded; here they are always there. The code computes advantages anew in every "
        "epoch, from the same values. Variant 'regression' has a value that is a number.",
    ),
    credit=GAE(gamma=0.999, lam=0.95),
    heads=HyperbolicHeads(),
    objective=PPO_CLIP.objective.replace(value=CategoricalValueLoss(coef=0.5), entropy=0.01, standardise=True),
    step=Adam(learning_rate=5e-4, eps=1e-5, max_grad_norm=0.5),
    training=Training(epochs=2, minibatches=8, envs=64, rollout=256),
    variants=(("regression", (("objective.value", ValueLoss(coef=0.5)), ("heads.bins", None))),),
    relations=(
        Equals("ppo_clip", theirs={"objective.entropy": 0.01, "objective.standardise": True}),
        Equals("ppo_clip", "advantage", mine={"credit.gamma": 0.99, "credit.standardise": True}),
    ),
)

METHODS = (HYPERPP,)
