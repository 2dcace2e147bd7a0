"""verl: what it does about the difference between the engine that sampled and the one that trains."""

from __future__ import annotations

import math
from typing import Any
from unittest.mock import patch

from ...decisions import Decisions
from ...objective.correction import TruncatedImportance
from ...objective.estimators import K1, K2, K3, Estimator
from ...objective.levels import BehaviourRatio
from ...objective.policy import Clip, PolicyGradient, RatioWeight, Score, Surrogate, TwoSided, Widths
from ...objective.ratio import SequenceProductRatio, TokenRatio
from ...selection.mismatch import EachToken, Pool, RejectMismatch, SequenceMax, SequenceMean, SequenceSum
from ..batches import method
from ..checks import close
from ..pin import peer
from .cases import TOLERANCE, cases, compare, prepared
from .verl import FREE, MODES, NARROW, Configuration, Weights, same_loss, verl

FEW = {mode: MODES[mode] for mode in ("token-mean", "seq-mean-token-mean")}
LEVELS = {"token": TokenRatio(), "sequence": SequenceProductRatio()}
POOLS: dict[str, Pool] = {
    "token": EachToken(),
    "seq_sum": SequenceSum(),
    "seq_mean": SequenceMean(),
    "seq_max": SequenceMax(),
}
KINDS: dict[str, Estimator] = {"k1": K1(), "k2": K2(), "k3": K3()}


def _weights(level: str, threshold: Any, normalised: bool = False) -> Weights:
    """verl's weights of what another engine sampled."""
    helper = verl("rollout_corr_helper")

    def weights(d: Decisions, logp: Any) -> Any:
        with patch.object(helper, "compute_is_metrics", lambda **_: {}):  # divides by zero where all are dropped
            return helper.compute_rollout_correction_weights(
                d.logp_old - d.logp_behaviour,
                d.mask,
                rollout_is=level,
                rollout_is_threshold=threshold,
                rollout_is_batch_normalize=normalised,
            )[0]

    return weights


@peer("verl", "tis", "mis_icepop")
def truncated_importance() -> None:
    """Weights by token and by sequence, cut or dropped, and normalised, on the vanilla loss: value and gradient."""
    for level, ratio in LEVELS.items():
        for normalised in (False, True):
            cut = {**FREE, "objective.correction.level": ratio, "objective.correction.normalise": normalised}
            same_loss(method("tis", **cut), "vanilla", FEW, weights=_weights(level, 2.0, normalised))
            both = cut | {"objective.correction.drop": True, "objective.correction.floor": 0.5}
            same_loss(method("tis", **both), "vanilla", FEW, weights=_weights(level, "0.5_2.0", normalised))


@peer("verl", "tis")
def weighted_losses() -> None:
    """The same weights on the losses gspo, sapo, cispo, dppo_tv and gpg: value and gradient.

    verl's gspo is the form by token, and only there does a weight go to its own token. In kl_cov and dro verl weighs
    the penalty with the rest, which no correction does here; in geo_mean it takes the geometric mean of weights that
    are cut already.
    """
    widths = {"gspo_token": (3e-4, 4e-4), "dppo_tv": (0.15, 0.15)}
    every: dict[str, Any] = {"tau_pos": 1.0, "tau_neg": 1.05, "clip_ratio_c": 20.0}
    variants = {"gspo_token": "paper", "sapo": "paper", "cispo": "released", "dppo_tv": "paper", "gpg": "paper"}
    for key, variant in variants.items():
        ours = method(key, variant=variant, correction=TruncatedImportance(cap=2.0))
        mode = {"seq-mean-token-mean": MODES["seq-mean-token-mean"]}
        low, high = widths.get(key, (0.2, 0.2))
        given: dict[str, Any] = every | {"clip_ratio_low": low, "clip_ratio_high": high}
        same_loss(ours, key.removesuffix("_token"), mode, far=9.0, weights=_weights("token", 2.0), **given)


def _rejection(name: str) -> RejectMismatch:
    """verl's rule of this name at its threshold in THRESHOLDS."""
    pool, _, kind = name.rpartition("_")
    low, high = (-math.log(2.0), math.log(2.0)) if kind == "k1" else (-math.inf, LIMIT)
    return RejectMismatch(KINDS[kind], POOLS[pool], high=high, low=low)


LIMIT = 0.2
OPTIONS = [f"{pool}_{kind}" for pool in POOLS for kind in KINDS if (pool, kind) != ("seq_max", "k1")]
CHAINS = ("token_k1,seq_mean_k3", "seq_max_k2,seq_sum_k1")


def _threshold(name: str) -> str:
    return ",".join("0.5_2.0" if option.endswith("k1") else str(LIMIT) for option in name.split(","))


@peer("verl", "mis_icepop")
def rejection_masks() -> None:
    """The masks of all of its rules by k1, k2 and k3, of tokens and of answers, and of two rules in a row."""
    reject = verl("rollout_corr_helper").compute_rollout_rejection_mask
    for name in (*OPTIONS, *CHAINS):
        first, *more = (_rejection(option) for option in name.split(","))
        ours = first.replace(also=more[0]) if more else first
        for case, d in cases(method("grpo")):
            theirs = reject(d.logp_old - d.logp_behaviour, d.mask, name, _threshold(name))[0]
            close(ours(d).mask, theirs, TOLERANCE, f"mask of {name}, {case}")


BYPASS: tuple[tuple[dict[str, Any], Surrogate], ...] = (
    ({"loss_type": "ppo_clip"}, Clip(ratio=BehaviourRatio())),
    ({"loss_type": "reinforce"}, PolicyGradient()),
    ({"loss_type": "reinforce", "rollout_is": "token"}, Score(RatioWeight(cap=2.0), ratio=BehaviourRatio())),
    (
        {"loss_type": "reinforce", "rollout_is": "sequence"},
        Score(RatioWeight(cap=2.0), ratio=BehaviourRatio(SequenceProductRatio())),
    ),
    (
        {"loss_type": "reinforce", "rollout_is": "token", "rollout_is_threshold": "0.5_2.0"},
        Score(RatioWeight(), TwoSided(Widths(0.5, 1.0)), ratio=BehaviourRatio()),
    ),
)


@peer("verl", "mis_icepop")
def bypass_mode() -> None:
    """Policy loss bypass_mode, clipped and score gradient, weighed and rejected: value and gradient.

    verl weighs a whole answer by what of it is rejected too, and here that is gone: rejected are whole answers there.
    """
    loss, grpo = verl("core_algos").POLICY_LOSS_REGISTRY["bypass_mode"], method("grpo", **FREE)
    for asked, surrogate in BYPASS:
        for rule in (None, "seq_max_k2" if asked.get("rollout_is") == "sequence" else "token_k2"):
            given = asked | ({} if rule is None else {"rollout_rs": rule, "rollout_rs_threshold": _threshold(rule)})
            config = Configuration(**NARROW, global_batch_info={}, policy_loss=Configuration(rollout_correction=given))
            for mode, aggregate in FEW.items():
                one = grpo.override({"objective.surrogate": surrogate, "objective.aggregate": aggregate})
                for case, raw in cases(one):
                    d = prepared(one, raw)
                    kept = d if rule is None else _rejection(rule)(d.replace(logp_old=d.logp))
                    if not kept.mask.any():  # verl divides by 0
                        continue

                    def theirs(logp: Any, d: Decisions = d, mode: str = mode, config: Any = config) -> Any:
                        return loss(d.logp_behaviour, logp, d.advantage, d.mask, mode, config)[0]

                    compare(one, d.replace(mask=kept.mask), theirs, f"bypass {given}, {mode}, {case}")
