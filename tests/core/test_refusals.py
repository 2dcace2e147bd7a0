"""Combinations that make no sense are refused when they are made, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import tightrein as tr
from tightrein.parts import (
    Clip,
    Constant,
    PolicyGradient,
    PolicyObjective,
    ProximalWeight,
    RatioWeight,
    Ring,
    Score,
    SequenceMeanRatio,
    TruncatedImportance,
)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        # one part by itself
        (lambda: TruncatedImportance(cap=2.0, floor=5.0), "no weight is at least 5.0 and at most 2.0"),
        (lambda: RatioWeight(cap=1.0, floor=2.0), "floor 2.0 is above cap 1.0"),
        (lambda: Ring(outer_low=0.1), "lies inside the bounds"),
        (lambda: tr.method("bapo", low=0.95), "bounds cannot climb"),
        (lambda: tr.method("single_stream_spo", **{"credit.low": 0.99}), "BetaTracker keeps at least"),
        (lambda: tr.method("mis_icepop", "rejection", **{"reject_mismatch.high": -3.0}), "nothing lies between"),
        (lambda: tr.method("gpg", **{"credit.credit": "BetaTracker"}), "compares no group"),
        (lambda: tr.method("rpg_kl", **{"kl.controller": "AdaptiveKL"}), "cannot adapt a penalty inside the surrogate"),
        # a level that is not there
        (lambda: PolicyObjective(PolicyGradient(ratio=SequenceMeanRatio())), "PolicyGradient has no ratio"),
        (lambda: PolicyObjective(Score(ratio=SequenceMeanRatio())), "Score has no ratio"),
        (lambda: tr.method("gpg", ratio="TurnMeanRatio"), "PolicyGradient has no ratio that TurnMeanRatio could form"),
        (lambda: tr.method("troll", ratio="SequenceMeanRatio"), "TROLL has no ratio"),
        (lambda: tr.method("dhpo", ratio="SequenceMeanRatio"), "HybridClip forms the ratios .* itself"),
        (lambda: tr.method("gspo", bounds="ProbabilityBounds"), "those of single decisions, not of whole answers"),
        # two parts that count the same thing twice, or one that lacks its other half
        (lambda: PolicyObjective(Clip(), correction=ProximalWeight()), "ProximalWeight belongs to a ratio"),
        (lambda: tr.method("tis", ratio="BehaviourRatio"), "TruncatedImportance would count that twice"),
        (lambda: tr.method("tis", ratio="ProximalRatio"), "TruncatedImportance would count that twice"),
        (lambda: tr.method("minirl", correction="TruncatedImportance"), "TruncatedImportance would count that twice"),
        (lambda: tr.method("grpo", trust="SampledReferenceKL"), "stands beside a ReferenceKL that is on"),
    ],
)
def test_nonsense_is_refused_when_it_is_made(made: Callable[[], Any], reason: str) -> None:
    with pytest.raises(tr.TightreinError, match=reason) as error:
        made()
    assert error.value.remedy


def test_what_fits_once_all_is_set_is_not_refused() -> None:
    method = tr.method("tis", ratio="BehaviourRatio", correction=None)
    assert method.objective.correction is None
    assert tr.method("bapo", low=0.95, low_max=0.97).objective.surrogate.bounds.low == 0.95
    kl = {"kl.controller.coef": 0.5, "kl.controller": "Constant"}
    assert tr.method("rpg_kl", **kl).objective.surrogate.kl.controller == Constant(0.5)


def test_a_part_is_set_before_what_is_inside_it_however_its_path_is_written() -> None:
    changed = tr.method("rec", ratio="SequenceMeanRatio", **{"objective.surrogate": Clip()})
    assert changed.objective.surrogate.ratio == SequenceMeanRatio()
    assert tr.method("grpo", epsilon=0.3, **{"objective.surrogate": "SPO"}).objective.surrogate.epsilon == 0.3
