"""Slips of a user: each one clear sentence, and the remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import tightrein as tr

ONES = np.ones((2, 3))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"logp": ONES, "mask": np.ones((2, 4))}, r"logp has shape \(2, 3\).*\(2, 4\)"),
        ({"logp": ONES, "reward": np.ones(5)}, r"reward has shape \(5,\)"),
        ({"logp": np.ones(3)}, r"logp has shape \(3,\), but should be \[B, T\]"),
        ({"logp": ONES, "group": np.ones((2, 3))}, r"group has shape .* should be \[B\]"),
        ({"logp": ONES, "mask": torch.ones(2, 3)}, "libraries are mixed"),
        ({"logp": [[1.0, 2.0]]}, "logp is a list, not an array"),
        ({"rewards": np.ones(2)}, "unknown field of Decisions 'rewards'; nearest: reward"),
    ],
)
def test_wrong_shapes_and_libraries(made: dict[str, Any], said: str) -> None:
    with pytest.raises(tr.TightreinError, match=said):
        tr.Decisions(**made)


def test_missing_fields_name_method_field_and_shape() -> None:
    with pytest.raises(tr.TightreinError, match=r"grpo needs advantage, logp_ref") as error:
        tr.method("grpo").loss(tr.Decisions(logp=ONES, logp_old=ONES))
    assert "logp_ref [B, T]" in error.value.remedy
    assert "method.prepare" in error.value.remedy
    with pytest.raises(tr.TightreinError, match=r"grpo \(rewards to advantages\) needs group, reward"):
        tr.method("grpo").prepare(tr.Decisions(logp=ONES))
    with pytest.raises(tr.TightreinError, match="ppo_kl needs advantage, dist, dist_old"):
        tr.method("ppo_kl").loss(tr.Decisions(logp=ONES, logp_old=ONES))
    with pytest.raises(tr.TightreinError, match="ppo_clip needs returns"):
        tr.method("ppo_clip").loss(tr.Decisions(logp=ONES, logp_old=ONES, advantage=ONES, value=ONES))


def test_truncation_without_a_value_behind_it() -> None:
    d = tr.Decisions(reward=ONES, value_old=ONES, truncated=ONES * 0)
    with pytest.raises(tr.TightreinError, match=r"no value of the states behind the cuts"):
        tr.method("spo").prepare(d)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: tr.method("spoo"), "unknown method 'spoo'; nearest: spo"),
        (lambda: tr.method("spo", epsilo=0.1), r"no setting 'epsilo'\n  nearest: objective.surrogate.epsilon"),
        (lambda: tr.method("spo", epsilon=-0.1), r"SPO.epsilon is -0.1, but must be > 0"),
        (lambda: tr.method("spo", epsilon="much"), "epsilon=much is not a float"),
        (lambda: tr.method("spo", epsilon=float("nan")), "must be > 0"),
        (lambda: tr.method("grpo", coef=0.1), "ambiguous"),
        (lambda: tr.method("grpo", aggregate="TokenMeans"), r"unknown Aggregation.*TokenMean"),
        (lambda: tr.method("grpo", trust="K3"), r"unknown Divergence.*SampledOldKL"),
        (lambda: tr.method("spo", epsilon="SPO"), "is a float and cannot be 'SPO'"),
        (lambda: tr.method("grpo", surrogate=None), "unknown Surrogate"),
        (lambda: tr.method("grpo", epochs=1.5), "should be an int"),
        (lambda: tr.method("spo", variant="relased"), "unknown variant of spo"),
        (lambda: tr.method("spo").override({"key": "mine"}), "not a setting"),
        (lambda: tr.method("spo", anneal="maybe"), "anneal=maybe is not a bool"),
        (lambda: tr.method(tr.method("spo")), "is a method already"),  # type: ignore[arg-type]
        (lambda: tr.register(tr.method("spo", epsilon=0.1)), "there is a method 'spo' already"),
    ],
)
def test_slips_in_settings(call: Any, said: str) -> None:
    with pytest.raises(tr.TightreinError, match=said):
        call()


def test_a_forgotten_value_is_not_passed_over() -> None:
    d = tr.Decisions(logp=ONES, logp_old=ONES, advantage=ONES)
    with pytest.raises(tr.TightreinError, match=r"ppo_clip needs returns, value(.|\n)*objective.value.coef=0"):
        tr.method("ppo_clip").loss(d)
    assert np.isfinite(tr.method("ppo_clip", **{"objective.value.coef": 0}).loss(d).value)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rewards_that_are_not_finite(bad: float) -> None:
    d = tr.Decisions(logp=ONES, reward=np.array([0.0, bad]), group=np.zeros(2, int))
    for given in (d, tr.Decisions(logp=torch.ones(2, 3), reward=torch.tensor([0.0, bad]), group=torch.zeros(2).int())):
        with pytest.raises(tr.TightreinError, match="a NaN or an infinity"):
            tr.method("grpo").prepare(given)


def test_rewards_alone_do_not_say_how_many_decisions_there_are() -> None:
    with pytest.raises(tr.TightreinError, match=r"no \[B, T\] array"):
        tr.method("gspo").prepare(tr.Decisions(reward=np.zeros(2), group=np.zeros(2, int)))
    masked = tr.Decisions(reward=np.arange(2.0), group=np.zeros(2, int), mask=np.ones((2, 3), bool))
    assert tr.method("gspo").prepare(masked).advantage.shape == (2, 3)


def test_an_unknown_field_names_the_nearest() -> None:
    with pytest.raises(tr.TightreinError, match="unknown field of Decisions 'logpold'; nearest: logp_old"):
        tr.Decisions(logp=ONES).replace(logpold=ONES)


def test_a_method_without_state_has_nothing_to_update() -> None:
    assert tr.method("grpo").update(None, tr.Decisions(logp=ONES)) == {}


def test_a_registered_method_is_found_by_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tightrein.catalogue._ALL", {"grpo": tr.method("grpo")})
    mine = tr.register(tr.method("grpo").replace(key="mine"))
    assert tr.method("mine") == mine
    assert tr.methods() == ("grpo", "mine")
