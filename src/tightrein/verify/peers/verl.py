"""verl, without the packages it needs on a cluster, and the comparison of its policy losses with ours."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

from ...arrays import at_hand
from ...decisions import Decisions
from ...errors import NotInstalled, require
from ...method import Method
from ...objective.aggregate import (
    Aggregation,
    SeqMeanTokenMean,
    SeqMeanTokenSum,
    SeqMeanTokenSumNorm,
    TokenMean,
    TokenSum,
)
from .cases import FAR, cases, compare, prepared

LENGTH = 11  # what verl calls the loss's scale factor; not the width of the batches
MODES: dict[str, Aggregation] = {
    "token-mean": TokenMean(),
    "token-sum": TokenSum(),
    "seq-mean-token-sum": SeqMeanTokenSum(),
    "seq-mean-token-mean": SeqMeanTokenMean(),
    "seq-mean-token-sum-norm": SeqMeanTokenSumNorm(LENGTH),
}
NARROW = {"clip_ratio": 0.2, "clip_ratio_low": None, "clip_ratio_high": None, "clip_ratio_c": 1e9}
FREE: dict[str, Any] = {"objective.reference.coef": 0.0}
NO_CRITIC: dict[str, Any] = {"objective.value.coef": 0.0}
Weights = Callable[[Decisions, Any], Any]  # of a batch and its log-probabilities: verl's rollout_is_weights [B, T]


class Configuration(SimpleNamespace):
    """Stands in for verl's actor configuration, whose module imports Ray."""

    def get(self, name: str, default: Any) -> Any:
        """The entry, or the default."""
        return getattr(self, name, default)


class Batch(SimpleNamespace):
    """Stands in for verl's DataProto, as far as its corrections use it."""

    @classmethod
    def from_dict(cls, tensors: dict[str, Any]) -> Batch:
        """See DataProto."""
        return cls(batch=tensors)


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
        _stand_in("verl.protocol", DataProto=Batch)
        _stand_in("verl.workers.config", ActorConfig=Configuration)
        _stand_in("verl.workers.config.actor", PolicyLossConfig=Configuration)
    return require(f"verl.trainer.ppo.{module}", "dev")


def _stand_in(name: str, **members: Any) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


def same_loss(
    ours: Method,
    name: str,
    modes: Mapping[str, Aggregation] = MODES,
    far: float = FAR,
    weights: Weights | None = None,
    without: tuple[str, ...] = (),
    **settings: Any,
) -> None:
    """verl's policy loss `name` in these aggregation modes, on every case but those in `without`.

    weights: what else verl weighs each decision by. settings: of verl's actor.
    """
    loss = verl("core_algos").POLICY_LOSS_REGISTRY[name]
    config = Configuration(**NARROW | settings, global_batch_info={})
    for mode, aggregate in modes.items():
        config.global_batch_info = {"loss_scale_factor": LENGTH} if mode.endswith("norm") else {}
        one = ours.override({"objective.aggregate": aggregate})
        for case, raw in cases(one, far):
            if case in without:
                continue
            d = prepared(one, raw)

            def theirs(logp: Any, d: Decisions = d, mode: str = mode) -> Any:
                return loss(
                    old_log_prob=d.logp_old,
                    log_prob=logp,
                    advantages=d.advantage,
                    response_mask=d.mask,
                    loss_agg_mode=mode,
                    config=config,
                    rollout_is_weights=None if weights is None else weights(d, logp),
                )[0]

            compare(one, d, theirs, f"{name}, {mode}, {case}")
