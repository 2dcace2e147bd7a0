"""What goes with any surrogate, here with grpo's: who sampled, how a KL is estimated, how losses are added up."""

from __future__ import annotations

from ..anchor.controller import ProportionalKL
from ..method import Source, Training
from ..objective.aggregate import SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean, TokenSum
from ..objective.correction import TruncatedImportance
from ..objective.divergence import ReferenceKL, SampledReferenceKL, WeightedReferenceKL
from ..objective.estimators import K1, K2, K3, Absolute, StraightThrough
from ..objective.levels import BehaviourRatio
from ..objective.off_policy import OffPolicyMask
from ..objective.policy import RatioWeight, Score
from ..objective.ratio import SequenceProductRatio
from ..relations import Equals
from ..reward import KLInReward
from ..selection import RejectMismatch, SequenceMax
from .language import GRPO
from .trust import TIS

_FREE = {"objective.reference.coef": 0.0}  # grpo without its KL term
_UNWEIGHED = ("objective.correction", None)

MIS_ICEPOP = TIS.replace(
    key="mis_icepop",
    title="Masked importance sampling: what was sampled too differently is left out",
    source=Source(
        paper="When Speed Kills Stability: Demystifying RL Collapse from the Training-Inference Mismatch",
        year=2025,
        code="verl trainer/ppo/rollout_corr_helper.py; TRL vllm_importance_sampling_mode, off_policy_mask_threshold",
        confidence="medium",
        differences="the default is IcePop's weight of single tokens, its band of 0.5 to 5 the usual one; variants: "
        "'mis' drops answers by their product (TRL: beyond 3), 'rejection' and 'rejection_max' take tokens and answers "
        "out of the denominator too, 'bypass' and 'bypass_reinforce' compare with the sampling policy alone, 'opsm' is "
        "DeepSeek-V3.2's mask, whose limit of 0.5 is ours. verl forms the weight of an answer before it rejects "
        "tokens, here of the tokens that are left. The libraries were read, the reports not.",
    ),
    objective=TIS.objective.replace(correction=TruncatedImportance(cap=5.0, floor=0.5, drop=True)),
    variants=(
        ("mis", (("objective.correction", TruncatedImportance(2.0, level=SequenceProductRatio(), drop=True)),)),
        ("rejection", (("selection", (RejectMismatch(),)), _UNWEIGHED)),
        ("rejection_max", (("selection", (RejectMismatch(K3(), SequenceMax(), high=0.1),)), _UNWEIGHED)),
        ("bypass", (("objective.surrogate.ratio", BehaviourRatio()), _UNWEIGHED)),
        ("bypass_reinforce", (("objective.surrogate", Score(RatioWeight(2.0), ratio=BehaviourRatio())), _UNWEIGHED)),
        ("opsm", (("objective.correction", OffPolicyMask()),)),
    ),
    relations=(
        Equals("grpo", on="the old policy sampled"),
        Equals("tis", mine={"cap": 1e9, "floor": 0.0}, theirs={"cap": 1e9}),
    ),
)


def _in_reward(estimator: K1 | K2 | K3) -> tuple[tuple[str, object], ...]:
    return ("objective.reference.coef", 0.0), ("reward", (KLInReward(0.04, estimator),))


KL_ESTIMATORS = GRPO.replace(
    key="kl_estimators",
    title="The KL to the reference: estimates of it, as a loss or in the reward",
    source=Source(
        paper="Approximating KL Divergence (joschu.net/blog/kl-approx)",
        year=2020,
        code="verl kl_penalty, kl_penalty_forward; TRL use_bias_correction_kl",
        differences="as a loss k2 has the gradient of KL(pi || pi_ref), k3 that of KL(pi_ref || pi), k1 none; in the "
        "reward k1 alone has that of KL(pi || pi_ref). verl also cuts k3 at 10.",
    ),
    variants=(
        ("k1", (("objective.reference.estimator", K1()),)),
        ("k2", (("objective.reference.estimator", K2()),)),
        ("absolute", (("objective.reference.estimator", Absolute()),)),
        ("k1_plus", (("objective.reference.estimator", StraightThrough(K1())),)),
        ("k3_plus", (("objective.reference.estimator", StraightThrough(K3())),)),
        ("off_policy", (("objective.reference", WeightedReferenceKL(0.04)),)),
        ("reward_k1", _in_reward(K1())),
        ("reward_k2", _in_reward(K2())),
        ("reward_k3", _in_reward(K3())),
        ("adaptive", (*_FREE.items(), ("objective.trust", SampledReferenceKL(ProportionalKL(0.04))))),
    ),
    relations=(
        Equals("grpo"),
        Equals("grpo", mine={"objective.reference": WeightedReferenceKL(0.04)}, on="the old policy"),
        Equals("kl_estimators", "gradient", mine={"estimator": StraightThrough()}, theirs={"estimator": K2()}),
        Equals("kl_estimators", mine={"estimator": StraightThrough()}),
    ),
)

LOSS_AGGREGATION = GRPO.replace(
    key="loss_aggregation",
    title="How losses per token become one number: all modes of verl and TRL",
    source=Source(
        paper="DAPO: An Open-Source LLM Reinforcement Learning System at Scale",
        year=2025,
        arxiv="2503.14476",
        code="verl core_algos.py agg_loss; TRL trainer/grpo_trainer.py (loss_type)",
        differences="the default, the mean over tokens, is verl's and TRL's. Denominators are those of a minibatch. "
        "TRL's modes 'trl_*' count answers without a token; its bnpo, dapo and cispo are the mean over tokens.",
    ),
    objective=GRPO.objective.replace(aggregate=TokenMean(), reference=ReferenceKL()),
    training=Training(group_size=8),
    variants=(
        ("token_sum", (("objective.aggregate", TokenSum()),)),
        ("seq_mean_token_sum", (("objective.aggregate", SeqMeanTokenSum()),)),
        ("seq_mean_token_sum_norm", (("objective.aggregate", SeqMeanTokenSumNorm()),)),
        ("seq_mean_token_mean", (("objective.aggregate", SeqMeanTokenMean()),)),
        ("trl_grpo", (("objective.aggregate", SeqMeanTokenMean(empty=True)),)),
        ("trl_dr_grpo", (("objective.aggregate", SeqMeanTokenSumNorm(empty=True)),)),
        ("trl_luspo", (("objective.aggregate", SeqMeanTokenSum(empty=True)),)),
    ),
    relations=(
        Equals("grpo", theirs=_FREE),
        Equals("grpo", "loss", theirs=_FREE, on="equal lengths"),
        Equals("grpo", "loss", theirs=_FREE, on="one decision per answer"),
    ),
)

METHODS = (MIS_ICEPOP, KL_ESTIMATORS, LOSS_AGGREGATION)
