"""Losses of the control literature."""

from __future__ import annotations

from ..behaviour import PROPS
from ..credit import GAE, ReturnToGo
from ..method import Method, Source, Training
from ..objective.decoupled import DecoupledKL
from ..objective.dropout import PairDropout
from ..objective.policy import Clip, Importance, LearnedDrift, PolicyGradient, PolicyObjective, TopHalf, Widths
from ..objective.policy.learned import SILENT
from ..objective.value import ValueLoss
from ..relations import Bound, Equals, Limit
from ..step import Adam, Critic, NaturalGradient
from .classic import DPO_DRIFT, PPO_CLIP

_PLAIN = {"objective.surrogate": "Importance"}

LPO_DRIFT = DPO_DRIFT.replace(
    key="lpo_drift",
    title="Learnt Policy Optimisation: a drift found by meta-learning",
    source=Source(
        paper="Discovered Policy Optimisation",
        year=2022,
        arxiv="2210.05639",
        code="luchris429/discovered-policy-optimisation dpo/brax_drift.py compute_drift_loss",
        differences="the drift networks of the paper, of 128 units, are not released. The one here has 4 units and was "
        "fitted to the closed form that the authors distilled from theirs, dpo_drift, which it meets to 5e-4 on "
        "average; give your own as LearnedDrift(units). Variant 'ppo_start' is where their meta-learning starts.",
    ),
    objective=DPO_DRIFT.objective.replace(surrogate=LearnedDrift(), value=ValueLoss(coef=0.5)),
    variants=(("ppo_start", (("objective.surrogate", LearnedDrift(SILENT, warm=0.2)),)),),
    relations=(
        Bound("lpo_drift", theirs=_PLAIN),
        Equals("lpo_drift", "gradient", theirs=_PLAIN, on="the old policy"),
        Limit(
            "ppo_clip", mine={"objective.surrogate": LearnedDrift(SILENT, warm=0.2), "objective.standardise": False},
            setting="objective.surrogate.slack", to=0.0,
        ),
    ),
)  # fmt: skip

DPPO_DROPOUT = PPO_CLIP.replace(
    key="dppo_dropout",
    title="PPO that drops what makes its surrogate's variance large",
    source=Source(
        paper="Dropout Strategy in Reinforcement Learning: Limiting the Surrogate Objective Variance in Policy "
        "Optimization Methods",
        year=2023,
        arxiv="2310.20380",
        read="excerpt",
        confidence="low",
        reconstruction=True,
        differences="abstract, introduction and a summary of the paper were read: a bound on the variance of the "
        "surrogate, and that data with a small value of the term between pairs is dropped. That term, the two parts by "
        "its sign and the share of 0.2 are filled in; no code is known. Variant 'whole' drops a share of all.",
    ),
    objective=PPO_CLIP.objective.replace(correction=PairDropout()),
    training=Training(epochs=4, minibatches=4, envs=8, rollout=128),
    variants=(("whole", (("objective.correction.by_sign", False),)),),
    relations=(Equals("ppo_clip", mine={"objective.correction.fraction": 0.0}),),
)

VMPO = Method(
    key="vmpo",
    title="V-MPO: on-policy maximum a posteriori policy optimization",
    home="control",
    source=Source(
        paper="V-MPO: On-Policy Maximum a Posteriori Policy Optimization for Discrete and Continuous Control",
        year=2019,
        arxiv="1909.12238",
        code="Matt00n/PolicyGradientsJax vmpo.py compute_vmpo_loss",
        confidence="medium",
        differences="a third party's code was read, and the paper's abstract. That code measures the KL from the "
        "present policy to itself, so that it is 0 and has no gradient; here, as in the paper, it is from the policy "
        "that sampled. The median is that of a minibatch. For actions that are vectors the code starts with "
        "objective.trust.controller.coef=1. The widths and the schedule are the code's.",
    ),
    credit=GAE(),
    objective=PolicyObjective(surrogate=TopHalf(), trust=DecoupledKL(), value=ValueLoss(coef=1.0)),
    step=Adam(learning_rate=3e-4, max_grad_norm=0.5, anneal=True),
    training=Training(epochs=10, minibatches=8, envs=8, rollout=256),
    variants=(("vectors", (("objective.trust.controller.coef", 1.0),)),),
    relations=(
        Bound("vmpo", theirs={"objective.trust": None}),
        Equals("vmpo", "gradient", theirs={"objective.trust": None}, on="the old policy"),
    ),
)

_GUIDE_STEP = Adam(learning_rate=3e-4, max_grad_norm=0.5, anneal=True)
_GUIDE_VALUE = ValueLoss(coef=0.5)

PG_GUIDE = Method(
    key="pg_guide",
    title="REINFORCE, A2C, TRPO, PPO and V-MPO on one pipeline",
    home="control",
    source=Source(
        paper="The Definitive Guide to Policy Gradients in Deep Reinforcement Learning: Theory, Algorithms and "
        "Implementations",
        year=2024,
        arxiv="2401.13662",
        code="Matt00n/PolicyGradientsJax reinforce.py, a2c.py, trpo.py, ppo.py, vmpo.py",
        differences="the code was read. The default is its PPO, the other four are variants by name. Its line search "
        "for TRPO keeps the last trial even where none was accepted; here the parameters stay. It adds gamma G_{t+1} "
        "to the residual without the last lambda, and leaves truncated steps out; here credit is GAE. It anneals to "
        "1 percent, here to 0; its networks have four layers, squash actions and normalise observations and rewards.",
    ),
    credit=GAE(),
    objective=PolicyObjective(surrogate=Clip(Widths(0.2, 0.2)), value=_GUIDE_VALUE, standardise=True),
    step=_GUIDE_STEP,
    training=Training(epochs=10, minibatches=8, envs=8, rollout=2048),
    variants=(
        (
            "reinforce",
            (
                ("credit", ReturnToGo()),
                ("objective", PolicyObjective(surrogate=PolicyGradient())),
                ("training", Training(envs=1, rollout=2048)),
            ),
        ),
        (
            "a2c",
            (
                ("objective.surrogate", PolicyGradient()),
                ("objective.entropy", 0.1),
                ("training.epochs", 1),
            ),
        ),
        (
            "trpo",
            (
                ("credit.standardise", True),
                ("objective", PolicyObjective(surrogate=Importance())),
                ("step", NaturalGradient(damping=0.1, shrink=0.8)),
                ("critic", Critic(step=_GUIDE_STEP, epochs=10, batch=2048)),
            ),
        ),
        ("ppo", ()),
        ("vmpo", (("objective", VMPO.objective), ("step", VMPO.step))),
    ),
    relations=(
        Equals("ppo_clip", theirs={"objective.standardise": True}),
        Equals("pg_guide", "gradient", theirs={"objective.surrogate": "PolicyGradient"}, on="the old policy"),
    ),
)

PROPS_METHOD = PPO_CLIP.replace(
    key="props",
    title="Proximal Robust On-Policy Sampling: data that looks on-policy, by another policy",
    source=Source(
        paper="On-Policy Policy Gradient Reinforcement Learning Without On-Policy Sampling",
        year=2023,
        arxiv="2311.08290",
        code="NicholasCorrado/PPOROS PROPS/ppo_props_discrete.py, ppo_props_continuous.py",
        differences="the code was read, of the paper the abstract; these are its settings for discrete actions, with 8 "
        "environments for one. It regularises discrete actions by pi_theta(a) (logp_theta - logp_phi) on what was "
        "taken; here the KL is exact, as for its continuous ones (of which it takes the mean over dimensions). The "
        "weighting by |A| and the early stop of PPO itself are left out.",
    ),
    credit=GAE(),
    behaviour=PROPS(),
    objective=PolicyObjective(
        surrogate=Clip(Widths(0.2, 0.2)),
        value=ValueLoss(coef=0.5, clip_range=0.2),
        entropy=0.01,
        standardise=True,
    ),
    step=Adam(learning_rate=1e-3, eps=1e-5, max_grad_norm=0.5),
    training=Training(epochs=10, minibatches=32, envs=8, rollout=128),
    variants=(
        (
            "vectors",
            (
                ("behaviour.objective.trust.controller.coef", 0.3),
                ("behaviour.step.learning_rate", 1e-4),
                ("behaviour.minibatches", 16),
                ("behaviour.target", 0.05),
            ),
        ),
    ),
    relations=(Equals("ppo_clip", theirs={"objective.standardise": True, "objective.entropy": 0.01}),),
)

METHODS: tuple[Method, ...] = (LPO_DRIFT, DPPO_DROPOUT, VMPO, PG_GUIDE, PROPS_METHOD)
