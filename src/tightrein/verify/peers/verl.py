"""verl: the policy losses, aggregations, advantages, KL and value terms of its core algorithms, and its corrections."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from ...arrays import at_hand, convert, value_and_gradient
from ...credit import GAE, GroupCentred, GroupNormalised, LeaveOneOut
from ...decisions import Decisions
from ...errors import NotInstalled, require
from ...method import Method
from ...objective.aggregate import Aggregation, SeqMeanTokenMean, SeqMeanTokenSum, SeqMeanTokenSumNorm, TokenMean
from ...objective.divergence import K1, K2, K3
from ...objective.value import ValueLoss
from ...reward import KLInReward
from ..batches import WIDTH, batch, convert_decisions, decisions, fields, method
from ..checks import close
from ..pin import peer

TOLERANCE = 1e-6
MODES: dict[type[Aggregation], str] = {
    TokenMean: "token-mean",
    SeqMeanTokenSum: "seq-mean-token-sum",
    SeqMeanTokenMean: "seq-mean-token-mean",
    SeqMeanTokenSumNorm: "seq-mean-token-sum-norm",
}


class Configuration(SimpleNamespace):
    """Stands in for verl's actor configuration, whose module imports Ray."""

    def get(self, name: str, default: Any) -> Any:
        """The entry, or the default."""
        return getattr(self, name, default)


def verl(module: str) -> Any:
    """A module of verl, without the packages it needs on a cluster: no formula is in what is left out.

    Raises NotInstalled.
    """
    if "verl" not in sys.modules:
        if not at_hand("verl"):
            raise NotInstalled("verl is not installed", "pip install --no-deps verl, and the extra tightrein[dev]")
        found = importlib.util.find_spec("verl")
        package = ModuleType("verl")
        package.__path__ = list(found.submodule_search_locations or ()) if found else []
        sys.modules["verl"] = package
        _stand_in("verl.protocol", DataProto=object)
        _stand_in("verl.workers.config", ActorConfig=Configuration)
        _stand_in("verl.workers.config.actor", PolicyLossConfig=Configuration)
    return require(f"verl.trainer.ppo.{module}", "dev")


def _stand_in(name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def _same_loss(
    ours: Method, name: str, seeds: int = 3, weights: Callable[[Decisions], Any] | None = None, **settings: Any
) -> None:
    """The policy loss and its gradient by logp, on batches with ragged and empty rows."""
    core = verl("core_algos")
    aggregate = ours.objective.aggregate  # type: ignore[attr-defined]
    config = Configuration(clip_ratio=None, clip_ratio_low=None, clip_ratio_high=None, clip_ratio_c=1e9)
    vars(config).update(global_batch_info=settings.pop("global_batch_info", {}), **settings)
    for seed in range(seeds):
        made = fields(seed, ours)
        made["mask"][seed] = 0
        d = ours.prepare(decisions(made))
        d = convert_decisions(d, "PyTorch")

        def theirs(leaf: dict[str, Any], d: Decisions = d) -> Any:
            return core.POLICY_LOSS_REGISTRY[name](
                old_log_prob=d.logp_old,
                log_prob=leaf["logp"],
                advantages=d.advantage,
                response_mask=d.mask,
                loss_agg_mode=MODES[type(aggregate)],
                config=config,
                rollout_is_weights=None if weights is None else weights(d),
            )[0]

        def mine(leaf: dict[str, Any], d: Decisions = d) -> Any:
            return ours.loss(d.replace(**leaf)).value

        found, expected = (value_and_gradient(loss, {"logp": d.logp}) for loss in (mine, theirs))
        close(found[0], expected[0], TOLERANCE, f"{name}: loss")
        close(found[1]["logp"], expected[1]["logp"], TOLERANCE, f"{name}: gradient")


FREE: dict[str, Any] = {"objective.reference.coef": 0.0}
NARROW: dict[str, Any] = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.2}


@peer("verl", "ppo_clip", "a2c_as_ppo")
def clipped_loss() -> None:
    """Policy loss vanilla, token-mean: value and gradient."""
    for key in ("ppo_clip", "a2c_as_ppo"):
        _same_loss(method(key, **{"objective.value.coef": 0.0}), "vanilla", **NARROW)


@peer("verl", "grpo", "dapo", "dr_grpo", "psft", "vapo")
def clipped_loss_by_aggregation() -> None:
    """Policy loss vanilla with each paper's widths and aggregation: value and gradient."""
    _same_loss(method("grpo", **FREE), "vanilla", **NARROW)
    _same_loss(method("dapo"), "vanilla", clip_ratio_low=0.2, clip_ratio_high=0.28)
    _same_loss(method("psft"), "vanilla", clip_ratio_low=0.2, clip_ratio_high=0.28)
    alone: dict[str, Any] = {"positive_imitation.coef": 0.0, "objective.value.coef": 0.0}
    _same_loss(method("vapo", **alone), "vanilla", clip_ratio_low=0.2, clip_ratio_high=0.28)
    length: dict[str, Any] = {"loss_scale_factor": WIDTH}
    _same_loss(method("dr_grpo"), "vanilla", **NARROW, global_batch_info=length)


@peer("verl", "dual_clip_ppo", "bapo")
def dual_clip() -> None:
    """Policy loss vanilla with a dual clip, bapo's bounds being at their start: value and gradient."""
    two = method("dual_clip_ppo", **{"objective.value.coef": 0.0})
    _same_loss(two, "vanilla", **NARROW, clip_ratio_c=3.0)
    bounds: dict[str, Any] = {"objective.surrogate.bounds.share": 0.0}
    _same_loss(method("bapo", **bounds), "vanilla", clip_ratio_low=0.4, clip_ratio_high=0.2, clip_ratio_c=3.0)


@peer("verl", "gspo")
def gspo_loss() -> None:
    """Policy loss gspo: value and gradient."""
    _same_loss(method("gspo"), "gspo", clip_ratio_low=3e-4, clip_ratio_high=4e-4)
    _same_loss(method("gspo", low=0.1, high=0.2), "gspo", clip_ratio_low=0.1, clip_ratio_high=0.2)


@peer("verl", "sapo")
def sapo_loss() -> None:
    """Policy loss sapo: value and gradient."""
    _same_loss(method("sapo"), "sapo", tau_pos=1.0, tau_neg=1.05)


@peer("verl", "cispo")
def cispo_loss() -> None:
    """Policy loss cispo (the released variant): value and gradient."""
    _same_loss(method("cispo", variant="released"), "cispo", **NARROW)


@peer("verl", "clip_cov")
def clip_cov_loss() -> None:
    """Policy loss clip_cov, where every candidate is taken and so none is drawn: value and gradient."""
    changes: dict[str, Any] = {"objective.correction.share": 1.0, "objective.correction.low": 0.1}
    picked = SimpleNamespace(clip_cov_ratio=1.0, clip_cov_lb=0.1, clip_cov_ub=5.0)
    _same_loss(method("clip_cov", **changes), "clip_cov", **NARROW, policy_loss=picked)


@peer("verl", "kl_cov")
def kl_cov_loss() -> None:
    """Policy loss kl_cov with a share that takes several tokens: value and gradient."""
    picked = SimpleNamespace(kl_cov_ratio=0.2, ppo_kl_coef=1.0)
    _same_loss(method("kl_cov", **{"objective.trust.share": 0.2}), "kl_cov", **NARROW, policy_loss=picked)


@peer("verl", "tis")
def truncated_importance() -> None:
    """Rollout correction by token and by sequence, and IcePop's two bounds, on the vanilla loss: value and gradient."""
    helper = verl("rollout_corr_helper")

    def weights(level: str, threshold: Any) -> Callable[[Decisions], Any]:
        return lambda d: helper.compute_rollout_correction_weights(
            d.logp_old - d.logp_behaviour, d.mask, rollout_is=level, rollout_is_threshold=threshold
        )[0]

    _same_loss(method("tis", **FREE), "vanilla", **NARROW, weights=weights("token", 2.0))
    whole: dict[str, Any] = {"objective.correction.level": "SequenceProductRatio"}
    _same_loss(method("tis", **FREE, **whole), "vanilla", **NARROW, weights=weights("sequence", 2.0))
    both: dict[str, Any] = {"objective.correction.drop": True, "objective.correction.floor": 0.5}
    _same_loss(method("tis", **FREE, **both), "vanilla", **NARROW, weights=weights("token", "0.5_2.0"))


def _same_advantage(name: str, rule: Callable[[Decisions], Decisions], reads: str = "index", **options: Any) -> None:
    """Advantages from rewards that come with the last token. reads: what verl's rule wants, "index" or "values"."""
    core = verl("core_algos")
    for seed in range(3):
        d = decisions(fields(seed, method("grpo")))
        rewards, mask, values = convert([d.reward_per_decision(), d.mask, d.value_old], "PyTorch")
        given = {"values": values, "index": np.asarray(d.group)}[reads]
        options = {**options, reads: given}
        found = core.ADV_ESTIMATOR_REGISTRY[name](token_level_rewards=rewards, response_mask=mask, **options)
        ours = rule(d.replace(bootstrap=None, truncated=None, terminated=None))
        for theirs, mine in zip(found, (ours.advantage, ours.returns), strict=False):
            if mine is not None:
                close(mine * d.mask, convert(theirs, "NumPy") * d.mask, TOLERANCE, f"advantage {name}")


@peer("verl", "grpo", "dapo", "gspo", "cispo", "sapo")
def group_normalised() -> None:
    """Advantages of grpo."""
    _same_advantage("grpo", GroupNormalised(), epsilon=1e-6)


@peer("verl", "dr_grpo")
def group_centred() -> None:
    """Advantages of grpo without the deviation."""
    _same_advantage("grpo", GroupCentred(), norm_adv_by_std_in_grpo=False)


@peer("verl", "rloo")
def leave_one_out() -> None:
    """Advantages of rloo, and the KL penalty in the reward."""
    _same_advantage("rloo", LeaveOneOut())
    d = batch(0, method("rloo"))
    steps = d.replace(reward=np.zeros_like(d.mask))
    given = convert([steps.reward, d.logp_old, d.logp_ref], "PyTorch")
    theirs = verl("core_algos").compute_rewards(*given, kl_ratio=0.05)
    close(KLInReward(coef=0.05)(steps).reward, convert(theirs, "NumPy") * d.mask, TOLERANCE, "KL in the reward")


@peer("verl", "ppo_clip", "rm_ensemble")
def generalised_advantage() -> None:
    """Advantages and value targets of gae, standardised over the batch."""
    rule = GAE(gamma=0.97, lam=0.9, standardise=True)
    _same_advantage("gae", rule, reads="values", gamma=0.97, lam=0.9)


@peer("verl", "grpo")
def divergence_estimators() -> None:
    """KL penalties k1, k2 and k3."""
    d = batch(0, method("grpo"))
    now, reference = convert([d.logp, d.logp_ref], "PyTorch")
    for name, estimator in (("k1", K1()), ("k2", K2()), ("k3", K3())):
        theirs = verl("core_algos").kl_penalty(now, reference, name)
        close(estimator(d.logp - d.logp_ref), convert(theirs, "NumPy"), TOLERANCE, name)


@peer("verl", "ppo_clip", "rm_ensemble")
def value_loss() -> None:
    """The clipped value loss, token-mean: value and gradient."""
    core = verl("core_algos")
    ours = method("ppo_clip", **{"objective.value": ValueLoss(coef=1.0, clip_range=0.2)})
    for seed in range(3):
        d = convert_decisions(batch(seed, ours), "PyTorch")

        def theirs(leaf: dict[str, Any], d: Decisions = d) -> Any:
            return core.compute_value_loss(leaf["value"], d.returns, d.value_old, d.mask, cliprange_value=0.2)[0]

        def mine(leaf: dict[str, Any], d: Decisions = d) -> Any:
            each = ours.objective.value(d.replace(**leaf))  # type: ignore[attr-defined]
            return (each * TokenMean().weights(d.mask)).sum()

        found, expected = (value_and_gradient(loss, {"value": d.value}) for loss in (mine, theirs))
        close(found[0], expected[0], TOLERANCE, "value loss")
        close(found[1]["value"], expected[1]["value"], TOLERANCE, "gradient of the value loss")
