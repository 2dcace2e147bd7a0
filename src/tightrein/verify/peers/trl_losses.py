"""TRL: the losses of its GRPO and RLOO trainers, from rewards on, in all of their averages and at both levels."""

from __future__ import annotations

from typing import Any

from ...objective.aggregate import Aggregation, SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ...objective.levels import BehaviourRatio
from ...objective.ratio import Ratio, SequenceMeanRatio, SequenceProductRatio, TokenRatio
from ..batches import WIDTH, method
from ..pin import peer
from .trl import same_loss

LOSSES: dict[str, Aggregation] = {  # loss types that differ in nothing but how they are averaged
    "grpo": SeqMeanTokenMean(),
    "bnpo": TokenMean(),
    "dapo": TokenMean(),
    "dr_grpo": SeqMeanTokenSumNorm(WIDTH),
    "luspo": SeqMeanTokenSum(),
}

LEVELS: dict[str, Ratio] = {"token": TokenRatio(), "sequence": SequenceMeanRatio()}
EPS: dict[str, Any] = {"credit.eps": 1e-4}  # TRL's
FREE: dict[str, Any] = {"objective.reference.coef": 0.0}
ALONE = ("groups of one",)  # TRL gives such an answer no advantage, here and in verl it is the reward


@peer("TRL", "grpo", "dapo", "dr_grpo")
def clipped_loss() -> None:
    """GRPOTrainer loss_types grpo, bnpo, dapo, dr_grpo and luspo, token by token, from rewards: value and gradient."""
    for loss_type, aggregate in LOSSES.items():
        ours = method("grpo", **FREE, **EPS, **{"objective.aggregate": aggregate})
        same_loss(ours, loss_type=loss_type, without=ALONE)


@peer("TRL", "grpo")
def grpo_loss() -> None:
    """GRPOTrainer loss_type grpo, with its KL term, from rewards: value and gradient."""
    same_loss(method("grpo", **EPS), beta=0.04, without=ALONE)


@peer("TRL", "dapo")
def dapo_loss() -> None:
    """GRPOTrainer loss_type dapo, wider above, from rewards: value and gradient."""
    same_loss(method("dapo", **EPS).replace(reward=()), loss_type="dapo", epsilon_high=0.28, without=ALONE)


@peer("TRL", "dr_grpo")
def dr_grpo_loss() -> None:
    """GRPOTrainer loss_type dr_grpo with rewards that are not scaled: value and gradient."""
    same_loss(method("dr_grpo"), loss_type="dr_grpo", scale_rewards="none")


@peer("TRL", "gspo")
def gspo_loss() -> None:
    """GRPOTrainer with importance_sampling_level sequence in five averages, from rewards: value and gradient."""
    for loss_type, aggregate in LOSSES.items():
        ours = method("gspo", **EPS, **{"objective.aggregate": aggregate})
        narrow: dict[str, Any] = {"epsilon_low": 3e-4, "epsilon_high": 4e-4}
        same_loss(ours, loss_type=loss_type, importance_sampling_level="sequence", without=ALONE, **narrow)


@peer("TRL", "luspo")
def luspo_loss() -> None:
    """GRPOTrainer loss_type luspo with ratios of answers, from rewards: value and gradient."""
    widths: dict[str, Any] = {"epsilon_low": 2e-3, "epsilon_high": 2.5e-3}
    same_loss(method("luspo", **EPS), loss_type="luspo", importance_sampling_level="sequence", without=ALONE, **widths)


@peer("TRL", "gmpo")
def gmpo_loss() -> None:
    """The experimental GMPOTrainer, from rewards: value and gradient."""
    same_loss(method("gmpo", **EPS), "gmpo.GMPOTrainer", epsilon_low=0.4, epsilon_high=0.4, without=ALONE)


@peer("TRL", "vespo")
def vespo_loss() -> None:
    """GRPOTrainer loss_type vespo, also with the weights of another sampler in its ratio: value and gradient."""
    shapes: dict[str, Any] = {"vespo_k_pos": 2.0, "vespo_lambda_pos": 3.0, "vespo_k_neg": 3.0, "vespo_lambda_neg": 2.0}
    same_loss(method("vespo", **EPS), far=30.0, loss_type="vespo", without=ALONE, **shapes)
    sampled = method("vespo", **EPS, **{"surrogate.ratio": BehaviourRatio(SequenceProductRatio())})
    untruncated: dict[str, Any] = {
        "vllm_importance_sampling_mode": "token_truncate",
        "vllm_importance_sampling_clip_max": 1e9,
    }
    same_loss(sampled, far=15.0, loss_type="vespo", use_vllm=True, without=ALONE, **shapes, **untruncated)


@peer("TRL", "kl_estimators")
def corrected_divergence() -> None:
    """GRPOTrainer's use_bias_correction_kl, with ratios of tokens and of answers: value and gradient."""
    for level, ratio in LEVELS.items():
        changes: dict[str, Any] = {"objective.surrogate.ratio": ratio, "objective.reference.ratio": ratio}
        ours = method("kl_estimators", variant="off_policy", **EPS).override(changes)
        theirs: dict[str, Any] = {"use_bias_correction_kl": True, "importance_sampling_level": level, "beta": 0.04}
        same_loss(ours, far=9.0, without=ALONE, **theirs)


@peer("TRL", "mis_icepop")
def off_policy_mask() -> None:
    """GRPOTrainer's off_policy_mask_threshold (the variant opsm), from rewards: value and gradient."""
    ours = method("mis_icepop", variant="opsm", limit=0.1, **EPS)
    same_loss(ours, beta=0.04, off_policy_mask_threshold=0.1, without=ALONE)


@peer("TRL", "loss_aggregation")
def all_averages() -> None:
    """GRPOTrainer's loss types grpo, dr_grpo, luspo, bnpo and dapo, also of an empty answer: value and gradient."""
    kinds = {"trl_grpo": "grpo", "trl_dr_grpo": "dr_grpo", "trl_luspo": "luspo", "paper": "bnpo"}
    for variant, loss_type in (*kinds.items(), ("paper", "dapo")):
        ours = method("loss_aggregation", variant=variant, **EPS)
        same_loss(ours, loss_type=loss_type, without=ALONE, empty=True)


@peer("TRL", "grpo")
def entropy_bonus() -> None:
    """GRPOTrainer's entropy bonus, which is a mean over tokens: value and gradient."""
    ours = method("grpo", **FREE, **EPS, **{"objective.aggregate": TokenMean(), "objective.entropy": 0.01})
    bonus: dict[str, Any] = {"_entropy_bonus_enabled": True, "use_adaptive_entropy": False, "entropy_coef": 0.01}
    same_loss(ours, loss_type="bnpo", without=ALONE, **bonus)


@peer("TRL", "dual_clip_ppo")
def two_sided_loss() -> None:
    """GRPOTrainer's delta, the second clip, for ratios of tokens and of answers: value and gradient."""
    for level, ratio in LEVELS.items():
        changes: dict[str, Any] = {**FREE, **EPS, "objective.surrogate.dual": 3.0, "objective.surrogate.ratio": ratio}
        same_loss(method("grpo", **changes), far=30.0, delta=3.0, importance_sampling_level=level, without=ALONE)


@peer("TRL", "cispo")
def cispo_loss() -> None:
    """GRPOTrainer loss_type cispo, with ratios of tokens and of answers, from rewards: value and gradient."""
    for level, ratio in LEVELS.items():
        ours = method("cispo", **EPS, **{"objective.surrogate.ratio": ratio})
        theirs: dict[str, Any] = {"loss_type": "cispo", "epsilon_high": 5.0, "importance_sampling_level": level}
        same_loss(ours, far=30.0, without=ALONE, **theirs)


@peer("TRL", "sapo")
def sapo_loss() -> None:
    """GRPOTrainer loss_type sapo, with ratios of tokens and of answers, from rewards: value and gradient."""
    temperatures: dict[str, Any] = {"sapo_temperature_pos": 1.0, "sapo_temperature_neg": 1.05}
    for level, ratio in LEVELS.items():
        ours = method("sapo", **EPS, **{"objective.surrogate.ratio": ratio})
        same_loss(ours, far=30.0, loss_type="sapo", importance_sampling_level=level, without=ALONE, **temperatures)


@peer("TRL", "tis")
def truncated_importance() -> None:
    """GRPOTrainer's four vllm_importance_sampling_modes, from rewards: value and gradient."""
    for level, ratio in (("token", "TokenRatio"), ("sequence", "SequenceProductRatio")):
        for way, drop in (("truncate", False), ("mask", True)):
            limits: dict[str, Any] = {"objective.correction.cap": 3.0, "objective.correction.floor": 0.5}
            changes: dict[str, Any] = {"objective.correction.level": ratio, "objective.correction.drop": drop}
            theirs: dict[str, Any] = {
                "vllm_importance_sampling_mode": f"{level}_{way}",
                "vllm_importance_sampling_clip_min": 0.5,
            }
            same_loss(method("tis", **EPS, **limits, **changes), use_vllm=True, beta=0.04, without=ALONE, **theirs)


@peer("TRL", "rloo")
def rloo_loss() -> None:
    """RLOOTrainer (the released variant), from rewards and the KL penalty in them: value and gradient."""
    same_loss(method("rloo", variant="released"), "RLOOTrainer", beta=0.05, without=("gaps",))
