"""Methods whose update is more than a gradient step."""

from __future__ import annotations

from ..anchor.controller import AdamDual, Constant, MirrorStep
from ..credit import GAE
from ..method import Method, Source, Training
from ..objective.divergence import ExactNewKL, ExactOldMaxKL
from ..objective.policy import Importance, PolicyObjective
from ..objective.value import ValueLoss
from ..relations import Equals
from ..step import Adam, Critic, FixUp, GaussNewton, NaturalGradient, PlainNaturalGradient

_PLAIN = {"objective.surrogate": "Importance"}
_LOSS_ALONE = {"objective.entropy": 0.0, "objective.standardise": False}

TRPO = Method(
    key="trpo",
    title="Trust Region Policy Optimization",
    home="control",
    source=Source(
        paper="Trust Region Policy Optimization",
        year=2015,
        arxiv="1502.05477",
        code="joschu/modular_rl modular_rl/trpo.py; openai/baselines baselines/trpo_mpi/trpo_mpi.py",
        differences="the paper has the natural gradient, a line search on surrogate and KL <= delta, Fisher products "
        "on a tenth of the data, and plain returns; the damping of 1e-3 and the value network are the author's code's. "
        "baselines accepts KL <= 1.5 delta, damps by 0.1, uses every fifth decision and lambda 0.98: variant "
        "'released'. modular_rl does not check the KL and asks for a tenth of the promised gain: step.slack=None, "
        "step.improvement=0.1. The vine sampling scheme needs resets of the environment and is left out.",
    ),
    credit=GAE(lam=1.0, standardise=True),
    objective=PolicyObjective(surrogate=Importance()),
    step=NaturalGradient(subsample=10),
    critic=Critic(),
    training=Training(envs=8, rollout=128),
    variants=(("released", (("step", NaturalGradient(damping=0.1, slack=1.5, subsample=5)), ("credit.lam", 0.98))),),
    relations=(
        Equals("ppo_clip", theirs=_PLAIN),
        Equals("ppo_clip", "gradient", theirs={"objective.surrogate": "PolicyGradient"}, on="the old policy"),
    ),
)

NPG = TRPO.replace(
    key="npg",
    title="Natural policy gradient: the direction of TRPO, and no line search",
    source=Source(
        paper="A Natural Policy Gradient (Kakade); as practised in Towards Generalization and Simplicity in "
        "Continuous Control (Rajeswaran et al.)",
        year=2001,
        arxiv="1703.02660",
        code="aravindr93/mjrl mjrl/algos/npg_cg.py",
        differences="the code was read, of the paper of 2017 the abstract; Kakade's and the exact form for tables "
        "(Agarwal et al., arXiv 1908.00261) are from memory. The normalised step, gamma 0.995, lambda 0.97, Fisher "
        "products on all decisions and scaled advantages are the code's. Its step size is twice the KL: 0.01 by "
        "default and 0.1 in its examples, that is delta 0.005 and 0.05, where 0.01 stands here; it damps by 1e-4, "
        "starts conjugate gradient at the gradient, and its value function is fitted before the advantages of the "
        "next batch are taken. The plain step is step.rate.",
    ),
    credit=GAE(gamma=0.995, lam=0.97, standardise=True),
    step=PlainNaturalGradient(),
    variants=(("released", (("step", PlainNaturalGradient(delta=0.005, damping=1e-4)),)),),
    relations=(
        Equals("trpo"),
        Equals("trpo", "gradient"),
        Equals("trpo", "advantage", mine={"credit.gamma": 0.99, "credit.lam": 1.0}),
    ),
)

GAE_VALUE_TRUST_REGION = TRPO.replace(
    key="gae_value_trust_region",
    title="TRPO with GAE, and a trust region for the value function too",
    source=Source(
        paper="High-Dimensional Continuous Control Using Generalized Advantage Estimation",
        year=2015,
        arxiv="1506.02438",
        code="joschu/modular_rl (the author's, of the same time; it fits the values by L-BFGS)",
        read="excerpt",
        confidence="medium",
        differences="of the paper the beginning was read; section 5 is from memory, and its epsilon is not known: 0.1 "
        "is ours. Gamma 0.995 and lambda 0.97 are those of the author's published runs. The paper rescales the step "
        "until it meets the bound; here a step that would minimise the error inside the trust region is not "
        "lengthened, which would raise the error again. Returns are discounted sums of rewards as in the paper; what "
        "lies behind a cut (a time limit, the end of the rollout) counts with its old value. The line search of the "
        "value function is ours: without it the measured constraint reached 19 times epsilon on CartPole "
        "(critic.step.slack=none).",
    ),
    credit=GAE(gamma=0.995, lam=0.97, value_lam=1.0, standardise=True),
    critic=Critic(step=GaussNewton()),
    variants=(),
    relations=(
        Equals("trpo"),
        Equals("trpo", "gradient"),
        Equals("trpo", "advantage", mine={"credit.gamma": 0.99, "credit.lam": 1.0}),
    ),
)

FIXPO = Method(
    key="fixpo",
    title="Fixup Policy Optimization: a trust region by penalty, guaranteed",
    home="control",
    source=Source(
        paper="Guaranteed Trust Region Optimization via Two-Phase KL Penalization",
        year=2023,
        arxiv="2312.05405",
        code="FixPOPolicy.learn of the paper's repository (stabilized-rl, Tianshou)",
        differences="the code was read, of the paper the abstract; these are the defaults of its class. Its script "
        "for MuJoCo has bound 0.5, factor 3, no entropy bonus, clipped values of a small weight and raw advantages: "
        "variant 'released'. The code repeats the second phase without an end; here it gives up after 100 passes and "
        "puts the old policy back.",
    ),
    credit=GAE(),
    objective=PolicyObjective(
        surrogate=Importance(),
        trust=ExactOldMaxKL(AdamDual()),
        value=ValueLoss(coef=1.0),
        entropy=0.01,
        standardise=True,
    ),
    step=FixUp(Adam(learning_rate=3e-4)),
    training=Training(epochs=10, minibatches=16, envs=64, rollout=128),
    variants=(
        (
            "released",
            (
                ("objective.trust.controller", AdamDual(bound=0.5, factor=3.0)),
                ("objective.value", ValueLoss(coef=0.2, clip_range=0.2)),
                ("objective.entropy", 0.0),
                ("objective.standardise", False),
                ("step.optimizer", Adam(learning_rate=3e-4, max_grad_norm=0.5, anneal=True)),
            ),
        ),
    ),
    relations=(
        Equals("ppo_kl", mine=_LOSS_ALONE),
        Equals("ppo_clip", mine={**_LOSS_ALONE, "objective.trust.controller": Constant(0.0)}, theirs=_PLAIN),
    ),
)

MDPO_ON = Method(
    key="mdpo_on",
    title="Mirror Descent Policy Optimization, on-policy",
    home="control",
    source=Source(
        paper="Mirror Descent Policy Optimization",
        year=2020,
        arxiv="2005.09814",
        code="manantomar/Mirror-Descent-Policy-Optimization mdpo_on/mdpo.py",
        differences="the code's step size is one iteration behind (1 - (k - 1)/K, above 1 at first), its range of "
        "values is annealed with it. The option of Tsallis entropies is left out.",
    ),
    credit=GAE(standardise=True),
    objective=PolicyObjective(surrogate=Importance(), trust=ExactNewKL(MirrorStep())),
    step=Adam(learning_rate=3e-4, eps=1e-5, max_grad_norm=0.5, anneal=True),
    critic=Critic(
        loss=ValueLoss(coef=2.0, clip_range=0.2), step=Adam(learning_rate=3e-4, anneal=True), epochs=5, batch=128
    ),
    training=Training(epochs=10, envs=8, rollout=256),
    relations=(
        Equals("ppo_clip", "gradient", theirs={"objective.surrogate": "PolicyGradient"}, on="the old policy"),
        Equals("ppo_clip", mine={"objective.trust.controller": Constant(0.0)}, theirs=_PLAIN),
    ),
)

METHODS = (TRPO, NPG, GAE_VALUE_TRUST_REGION, FIXPO, MDPO_ON)
