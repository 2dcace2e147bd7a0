"""verl: what its losses are made of (aggregation, divergences, values) and its advantages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...anchor.controller import ProportionalKL
from ...arrays import convert, value_and_gradient
from ...credit import GAE, GroupCentred, GroupNormalised, InformativeScaled, LeaveOneOut
from ...decisions import Decisions
from ...objective.value import ValueLoss
from ...reward import KLInReward
from ..batches import batch, method
from ..checks import close
from ..pin import peer
from .cases import FAR, TOLERANCE, cases, compare, prepared
from .verl import LENGTH, MODES, verl

ALONE = ("groups of one",)


@peer("verl", "grpo", "dapo", "dr_grpo", "rloo", "ppo_clip")
def aggregation() -> None:
    """Every aggregation mode, of a whole batch and of its halves."""
    aggregate, rng = verl("core_algos").agg_loss, np.random.default_rng(0)
    for name, raw in cases(method("grpo")):
        mask = raw.weights()
        each = convert(rng.standard_normal(mask.shape), "PyTorch")
        sizes = {"batch_num_tokens": int(mask.sum()), "global_batch_size": int(raw.alive().sum())}
        for mode, ours in MODES.items():
            weights = ours(raw)
            scale = {"loss_scale_factor": LENGTH} if mode.endswith("norm") else {}
            close((weights * each).sum(), aggregate(each, mask, mode, **scale), TOLERANCE, f"{mode}, {name}")
            for rows in (slice(0, 4), slice(4, 8)):
                half = aggregate(each[rows], mask[rows], mode, **scale, **sizes)
                close((weights * each)[rows].sum(), half, TOLERANCE, f"half of {mode}, {name}")


def _same_advantage(
    names: str,
    rule: Callable[[Decisions], Decisions],
    reads: str = "index",
    without: tuple[str, ...] = (),
    rewards: float = 0.0,
    **options: Any,
) -> None:
    """Advantages from rewards that come with the last token, on every case but those in `without`.

    names: of verl's rules that do the same. reads: what they want, "index" or "values". rewards: added to all of them.
    """
    for case, raw in cases(method("grpo"), empty=False):
        if case in without:
            continue
        d = raw.replace(reward=raw.reward + rewards, bootstrap=None, truncated=None, terminated=None)
        ours = rule(d)
        given = {"values": d.value_old, "index": np.asarray(d.group)}[reads]
        for name in names.split():
            found = verl("core_algos").ADV_ESTIMATOR_REGISTRY[name](
                token_level_rewards=d.reward_per_decision(), response_mask=d.mask, **options, **{reads: given}
            )
            for theirs, mine in zip(found, (ours.advantage, ours.returns), strict=False):
                if mine is not None:
                    close(mine * d.mask, theirs * d.mask, TOLERANCE, f"advantage {name}, {case}")


@peer("verl", "grpo", "dapo", "gspo", "cispo", "sapo")
def group_normalised() -> None:
    """Advantages of grpo, groups of one and equal rewards included."""
    _same_advantage("grpo grpo_vectorized", GroupNormalised(), epsilon=1e-6)


@peer("verl", "dr_grpo")
def group_centred() -> None:
    """Advantages of grpo without the deviation; of a group of one it is the reward in verl, and here 0 as in TRL."""
    _same_advantage("grpo", GroupCentred(), without=ALONE, norm_adv_by_std_in_grpo=False)


@peer("verl", "rloo")
def leave_one_out() -> None:
    """Advantages of rloo, and the KL penalty in the reward; of a group of one verl's two rules say 0 and the reward."""
    _same_advantage("rloo", LeaveOneOut(), without=ALONE)
    _same_advantage("rloo_vectorized", LeaveOneOut())
    d = batch(0, method("rloo"))
    steps = d.replace(reward=np.zeros_like(d.mask))
    given = convert([steps.reward, d.logp_old, d.logp_ref], "PyTorch")
    theirs = verl("core_algos").compute_rewards(*given, kl_ratio=0.05)
    close(KLInReward(coef=0.05)(steps).reward, convert(theirs, "NumPy") * d.mask, TOLERANCE, "KL in the reward")


@peer("verl", "ppo_clip", "rm_ensemble")
def generalised_advantage() -> None:
    """Advantages and value targets of gae, standardised over the batch."""
    _same_advantage("gae", GAE(gamma=0.97, lam=0.9, standardise=True), reads="values", gamma=0.97, lam=0.9)


@peer("verl", "gpg")
def gpg_advantage() -> None:
    """Advantages of gpg where no reward is 0 and all groups differ: verl counts rewards, not groups, without signal."""
    _same_advantage("gpg", InformativeScaled(), without=(*ALONE, "equal rewards"), rewards=1.0)


@peer("verl", "kl_estimators", "grpo", "papo_perception")
def divergence_estimators() -> None:
    """KL penalties of all names, as a loss: value and gradient. verl holds k3 to 10, so it is compared below that."""
    kinds = {
        "k1": "kl k1",
        "absolute": "abs",
        "k2": "mse k2",
        "paper": "low_var_kl k3",
        "k1_plus": "k1+",
        "k3_plus": "k3+",
    }
    for variant, names in kinds.items():
        ours = method("kl_estimators", variant=variant)
        for case, raw in cases(ours, 1.0 if "k3" in names else FAR):
            d = prepared(ours, raw)
            for name in names.split():

                def theirs(logp: Any, d: Decisions = d, name: str = name, ours: Any = ours) -> Any:
                    penalty = verl("core_algos").kl_penalty(logp, d.logp_ref, name)
                    return 0.04 * (penalty * ours.objective.aggregate(d)).sum()

                compare(ours, d.replace(advantage=0 * d.mask), theirs, f"penalty {name}, {case}")


@peer("verl", "kl_estimators")
def controlled_coefficient() -> None:
    """The adaptive coefficient of the KL penalty, as it goes up and down."""
    theirs = verl("core_algos").AdaptiveKLController(init_kl_coef=0.04, target_kl=0.1, horizon=80)
    ours, beta = ProportionalKL(coef=0.04, target=0.1, rate=8 / 80), np.float64(0.04)
    for divergence in (0.05, 0.09, 0.11, 5.0, 0.1, 0.0):
        theirs.update(current_kl=divergence, n_steps=8)
        beta = ours.next(beta, np.float64(divergence), 0.0)
        close(beta, theirs.value, TOLERANCE, "coefficient")


@peer("verl", "ppo_value_clip", "ppo_clip", "rm_ensemble")
def value_loss() -> None:
    """The value loss, clipped and averaged as in verl in all modes: value and gradient."""
    ours = method("ppo_value_clip")
    for width in (0.2, 0.5):
        rule = ValueLoss(coef=1.0, clip_range=width)
        for case, raw in cases(ours):
            d = prepared(ours, raw)
            for mode, aggregate in MODES.items():
                scale = {"loss_scale_factor": LENGTH} if mode.endswith("norm") else {}

                def theirs(
                    leaf: Any, d: Decisions = d, mode: str = mode, scale: Any = scale, width: float = width
                ) -> Any:
                    return verl("core_algos").compute_value_loss(
                        leaf["value"], d.returns, d.value_old, d.mask, width, mode, **scale
                    )[0]

                def mine(leaf: Any, d: Decisions = d, aggregate: Any = aggregate, rule: Any = rule) -> Any:
                    return (rule(d.replace(**leaf)) * aggregate(d)).sum()

                found, expected = (value_and_gradient(loss, {"value": d.value}) for loss in (mine, theirs))
                close(found[0], expected[0], TOLERANCE, f"value loss, {mode}, {case}")
                close(found[1]["value"], expected[1]["value"], TOLERANCE, f"its gradient, {mode}, {case}")
