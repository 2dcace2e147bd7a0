"""Settings: every hyperparameter by path, from Python and from text."""

from __future__ import annotations

import pytest

import tightrein as tr
from tightrein.parts import SPO, DropTruncated, Part, PositiveImitation, SampledOldKL, SequenceMeanRatio, TokenMean


def test_by_path_by_end_and_from_text() -> None:
    path = "objective.surrogate.epsilon"
    for method in (tr.method("spo", **{path: 0.1}), tr.method("spo", epsilon=0.1), tr.method("spo", **{path: "0.1"})):
        assert method.objective.surrogate == SPO(0.1)
        assert method.settings()[path] == 0.1
    assert tr.method("spo", anneal="false").step.anneal is False
    assert tr.method("spo", max_grad_norm="none").step.max_grad_norm is None
    assert tr.method("ppo_clip", max_grad_norm="0.5").step.max_grad_norm == 0.5
    assert tr.method("dr_grpo", length="16").objective.aggregate.length == 16
    assert tr.method("grpo", **{"credit.eps": 1e-4}).credit.eps == 1e-4


def test_parts_are_replaced_by_name_and_then_set() -> None:
    method = tr.method("grpo", **{"objective.surrogate.epsilon": 0.3, "objective.surrogate": "SPO"})
    assert method.objective.surrogate == SPO(0.3)
    assert tr.method("grpo", aggregate=TokenMean()).objective.aggregate == TokenMean()
    assert tr.method("grpo", trust="SampledOldKL").objective.trust == SampledOldKL()
    assert tr.method("ppo_kl", trust="none").objective.trust is None
    assert tr.method("grpo", ratio="SequenceMeanRatio").objective.surrogate.ratio == SequenceMeanRatio()


def test_tuples_of_parts_are_replaced_as_a_whole() -> None:
    method = tr.method("grpo", selection=(DropTruncated(),), **{"objective.terms": (PositiveImitation(0.2),)})
    assert method.selection == (DropTruncated(),)
    assert method.objective.terms == (PositiveImitation(0.2),)
    assert tr.method("dapo", selection=()).selection == ()
    for given in ("DropTruncated", DropTruncated(), (1,)):
        with pytest.raises(tr.TightreinError, match="tuple of parts"):
            tr.method("grpo", selection=given)


def test_parts_in_a_row_are_named_after_their_class() -> None:
    method = tr.method("dapo", **{"reward.soft_overlong.length": 100, "rounds": 2})
    assert method.reward[0].length == 100
    assert method.selection[0].rounds == 2
    assert method.settings()["selection.dynamic_sampling.rounds"] == 2


@pytest.mark.parametrize("key", tr.methods())
def test_settings_rebuild_the_method(key: str) -> None:
    """What stands in a run's config is enough to make the method again."""
    method = tr.method(key)
    assert tr.method(key).override(method.settings()) == method


def test_variants_are_settings_too() -> None:
    assert tr.method("ppo_clip", variant="released").step.max_grad_norm == 0.5
    assert tr.method("ppo_clip").step.max_grad_norm is None
    assert tr.method("cispo", variant="released", cap=1.5).objective.surrogate.weight.cap == 1.5


@pytest.mark.parametrize("key", tr.methods())
def test_every_method_says_where_it_comes_from(key: str) -> None:
    method = tr.method(key)
    source = method.source
    assert source.paper
    assert source.arxiv or source.code
    assert source.code or source.read != "code"
    assert source.differences or not source.reconstruction  # what was filled in is said
    assert any(getattr(part, "equation", "") for path, part in method.walk() if path.startswith("objective"))


def test_no_two_parts_share_a_name() -> None:
    places: dict[str, set[str]] = {}
    for part in _below(Part):
        if part.__module__.startswith("tightrein."):
            places.setdefault(part.__name__, set()).add(part.__module__)
    assert not {name: where for name, where in places.items() if len(where) > 1}


def _below(part: type[Part]) -> list[type[Part]]:
    return [cls for direct in part.__subclasses__() for cls in (direct, *_below(direct))]
