"""Methods that learn from demonstrations, alone or beside rollouts."""

from __future__ import annotations

from ..credit import Demonstrated, Mixed
from ..method import Method, Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSumNorm
from ..objective.hybrid import HybridObjective
from ..objective.policy import Clip, Importance, PolicyGradient, PolicyObjective, TrustedLikelihood, Widths
from ..relations import Equals
from ..selection import AccuracyGate
from ..step import Adam

_LIKELIHOOD = PolicyObjective(PolicyGradient())

SFT = Method(
    key="sft",
    title="Supervised fine-tuning: maximum likelihood of demonstrations",
    home="language",
    source=Source(
        paper="Supervised fine-tuning (no paper of its own)",
        year=2018,
        code="TRL trainer/sft_trainer.py loss_type='nll'; verl trainer/sft",
    ),
    credit=Demonstrated(),
    objective=_LIKELIHOOD,
    step=Adam(learning_rate=1e-5, max_grad_norm=1.0),
    experience="demonstrations",
    variants=(("sequence_mean", (("objective.aggregate", SeqMeanTokenMean()),)),),
    relations=(Equals("rloo", "loss", theirs={"objective.aggregate": "TokenMean"}),),
)

PSFT = SFT.replace(
    key="psft",
    title="Proximal Supervised Fine-Tuning",
    source=Source(
        "Proximal Supervised Fine-Tuning", 2025, "2508.17784",
        code="zwhong714/PSFT verl/recipe/psft",
        differences="the scripts take 8 minibatches an outer batch of 64 or 256; warm-up by plain fine-tuning is left "
        "to the user.",
    ),
    objective=PolicyObjective(Clip(Widths(0.2, 0.28))),
    step=Adam(learning_rate=1e-6, max_grad_norm=1.0, weight_decay=0.1),
    training=Training(minibatches=8),
    variants=(),
    relations=(Equals("sft", "gradient", on="the old policy"), Equals("dapo", "loss")),
)  # fmt: skip

TRSFT = SFT.replace(
    key="trsft",
    title="Trust-Region Supervised Fine-Tuning",
    source=Source(
        paper="Trust-Region Adaptive Policy Optimization",
        year=2025,
        arxiv="2512.17636",
        code="Su-my/TRAPO luffy/verl/verl/trapo_src/mix_core_alg.py off_policy_reshape='clip_low'",
        differences="a term of TRAPO there, summed over tokens (in code over the padded width); alone it is averaged "
        "over tokens, as sft is. The code also has a shifted form, not taken over.",
    ),
    objective=PolicyObjective(TrustedLikelihood(alpha=0.1)),
    variants=(),
    relations=(Equals("sft", "gradient", mine={"alpha": 0.0}),),
)

HPT = Method(
    key="hpt",
    title="Hybrid Post-Training: rollouts where they succeed, demonstrations elsewhere",
    home="language",
    source=Source(
        paper="Towards a Unified View of Large Language Model Post-Training",
        year=2025,
        arxiv="2509.04419",
        code="TsinghuaC3I/Unify-Post-Training hpt/verl/verl/mix_src/mix_trainer.py, mix_actor.py",
        differences="the gate of 0 is Qwen's; 0.25 (2 of 8) is Llama's. The code's policy term does not divide by the "
        "number of answers.",
    ),
    credit=Mixed(),
    selection=(AccuracyGate(),),
    objective=HybridObjective(
        rollouts=PolicyObjective(Importance(), aggregate=SeqMeanTokenSumNorm(), entropy=0.001),
        demonstrations=_LIKELIHOOD,
    ),
    step=Adam(learning_rate=5e-6, max_grad_norm=80.0),
    training=Training(minibatches=2, group_size=8),
    experience="mixed",
    relations=(
        Equals("sft", "gradient", mine={"gate": 1.0}),
        Equals("dr_grpo", "gradient", mine={"gate": -1.0, "rollouts.entropy": 0.0}, on="the old policy"),
    ),
)

METHODS = (SFT, PSFT, TRSFT, HPT)
