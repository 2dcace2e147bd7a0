"""verl: the policy losses of its core algorithms, each in all of its aggregation modes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from ...arrays import namespace
from ...decisions import Decisions
from ...errors import require
from ...objective.aggregate import SeqMeanTokenMean
from ..batches import method
from ..pin import peer
from .verl import FREE, NO_CRITIC, same_loss


@peer("verl", "ppo_clip", "a2c_as_ppo")
def clipped_loss() -> None:
    """Policy loss vanilla: value and gradient in every aggregation mode."""
    for key in ("ppo_clip", "a2c_as_ppo"):
        same_loss(method(key, **NO_CRITIC), "vanilla")


@peer("verl", "grpo", "dapo", "dr_grpo", "psft", "vapo")
def clipped_loss_by_width() -> None:
    """Policy loss vanilla with each paper's widths: value and gradient in every aggregation mode."""
    same_loss(method("grpo", **FREE), "vanilla")
    same_loss(method("dr_grpo"), "vanilla")
    for key in ("dapo", "psft"):
        same_loss(method(key), "vanilla", clip_ratio_high=0.28)
    same_loss(method("vapo", **NO_CRITIC, **{"positive_imitation.coef": 0.0}), "vanilla", clip_ratio_high=0.28)


@peer("verl", "dual_clip_ppo", "bapo")
def dual_clip() -> None:
    """Policy loss vanilla with a dual clip, bapo's bounds being at their start: value and gradient."""
    same_loss(method("dual_clip_ppo", **NO_CRITIC), "vanilla", clip_ratio_c=3.0)
    bounds: dict[str, Any] = {"objective.surrogate.bounds.share": 0.0}
    same_loss(method("bapo", **bounds), "vanilla", clip_ratio_low=0.4, clip_ratio_high=0.2, clip_ratio_c=3.0)


@peer("verl", "gspo", "gspo_token", "luspo")
def gspo_loss() -> None:
    """Policy loss gspo in every aggregation mode: value and gradient. verl cuts a log-ratio at 10, here it is 20."""
    for key in ("gspo", "gspo_token", "luspo"):
        for low, high in ((3e-4, 4e-4), (0.1, 0.2)):
            ours = method(key, **{"bounds.low": low, "bounds.high": high})
            same_loss(ours, "gspo", far=9.0, clip_ratio_low=low, clip_ratio_high=high)


@peer("verl", "gspo_token")
def gspo_by_token() -> None:
    """Policy loss gspo with an advantage for each token: value and gradient in every aggregation mode."""
    same_loss(method("gspo_token", credit="GAE"), "gspo", far=9.0, clip_ratio_low=3e-4, clip_ratio_high=4e-4)


@peer("verl", "gmpo")
def gmpo_loss() -> None:
    """Policy loss geo_mean, which counts empty answers and cuts no log-ratio: value and gradient."""
    mean = {"any": SeqMeanTokenMean(empty=True)}
    same_loss(method("gmpo"), "geo_mean", mean, far=19.0, clip_ratio_low=0.4, clip_ratio_high=0.4)
    same_loss(method("gmpo", low=0.1, high=0.3), "geo_mean", mean, far=19.0, clip_ratio_low=0.1, clip_ratio_high=0.3)


@peer("verl", "dppo_tv", "dppo_kl")
def dppo_loss() -> None:
    """Policy losses dppo_tv and dppo_kl: value and gradient in every aggregation mode."""
    for key, width in (("dppo_tv", 0.15), ("dppo_kl", 0.05)):
        same_loss(method(key), key, clip_ratio=width, clip_ratio_c=20.0)
        same_loss(method(key, low=0.02, high=0.1), key, clip_ratio_low=0.02, clip_ratio_high=0.1, clip_ratio_c=20.0)


@peer("verl", "dro", "opmd")
def dro_loss() -> None:
    """Policy loss dro: value and gradient in every aggregation mode."""
    same_loss(method("dro"), "dro", policy_loss=SimpleNamespace(dro_beta=0.1))
    same_loss(method("opmd"), "dro", policy_loss=SimpleNamespace(dro_beta=0.2))


@peer("verl", "gpg")
def gpg_loss() -> None:
    """Policy loss gpg: value and gradient in every aggregation mode."""
    same_loss(method("gpg"), "gpg")


@peer("verl", "loss_aggregation", "ppo_value_clip")
def plain_clip() -> None:
    """Policy loss vanilla: value and gradient in every aggregation mode."""
    same_loss(method("loss_aggregation"), "vanilla")
    same_loss(method("ppo_value_clip", **NO_CRITIC), "vanilla")


@peer("verl", "sapo")
def sapo_loss() -> None:
    """Policy loss sapo: value and gradient. verl has one aggregation mode for it."""
    same_loss(method("sapo"), "sapo", {"seq-mean-token-mean": SeqMeanTokenMean()}, tau_pos=1.0, tau_neg=1.05)


@peer("verl", "cispo")
def cispo_loss() -> None:
    """Policy loss cispo (the released variant): value and gradient in every aggregation mode."""
    same_loss(method("cispo", variant="released"), "cispo")


@peer("verl", "clip_cov")
def clip_cov_loss() -> None:
    """Policy loss clip_cov in every aggregation mode, the same decisions being drawn: value and gradient.

    verl does not cut a log-ratio, and here it is cut at 20.
    """
    for share in (1.0, 0.1):
        changes: dict[str, Any] = {"objective.correction.share": share, "objective.correction.low": 0.1}
        picked = SimpleNamespace(clip_cov_ratio=share, clip_cov_lb=0.1, clip_cov_ub=5.0)
        with _drawn_in_order():
            same_loss(method("clip_cov", **changes), "clip_cov", far=19.0, policy_loss=picked)


@contextmanager
def _drawn_in_order() -> Iterator[None]:
    """Both draw the first candidates in the batch: ours by `random`, verl by the permutation it asks for."""
    torch = require("torch", "language")
    correction = require("tightrein.objective.correction", "dev")
    first = correction.DropCovariance.__call__

    def ordered(self: Any, d: Decisions, surrogate: Any) -> Any:
        xp = namespace(d.mask)
        random = xp.reshape(xp.arange(d.mask.numel(), dtype=d.mask.dtype) / d.mask.numel(), d.mask.shape)
        return first(self, d.replace(random=random), surrogate)

    with patch.object(torch, "randperm", torch.arange), patch.object(correction.DropCovariance, "__call__", ordered):
        yield


@peer("verl", "kl_cov")
def kl_cov_loss() -> None:
    """Policy loss kl_cov with a share that takes several tokens: value and gradient.

    verl cuts no log-ratio, and of equal covariances, such as those of equal rewards, takes the first.
    """
    for variant, coef in (("paper", 1.0), ("released", 0.1)):
        picked = SimpleNamespace(kl_cov_ratio=0.2, ppo_kl_coef=coef)
        ours = method("kl_cov", variant=variant, **{"objective.trust.share": 0.2})
        same_loss(ours, "kl_cov", far=19.0, without=("equal rewards",), policy_loss=picked)
