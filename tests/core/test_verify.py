"""What `tightrein verify` checks quickly, for every method; and that it would notice."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tightrein as tr
from tightrein.relations import Bound, Equals, Limit, Stationary
from tightrein.verify import batches, inputs, relations
from tightrein.verify.columns import FAST, cell

KEYS = tr.methods()
COMMON = settings(max_examples=8, deadline=None)


@pytest.mark.parametrize("column", FAST)
@pytest.mark.parametrize("key", KEYS)
def test_fast_columns(key: str, column: str) -> None:
    found = cell(FAST[column], key)
    assert found.state in ("passed", "not applicable"), found.says


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999), columns=st.integers(0, 3), rows=st.integers(0, 2))
def test_padding_never_changes_anything(key: str, seed: int, columns: int, rows: int) -> None:
    inputs.padding(key, seed, columns, rows)


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999))
def test_order_of_trajectories_never_changes_anything(key: str, seed: int) -> None:
    inputs.order(key, seed)


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999), spread=st.floats(0, 300))
def test_no_finite_input_gives_nan(key: str, seed: int, spread: float) -> None:
    inputs.any_spread(key, seed, spread)


@pytest.mark.parametrize("key", KEYS)
@COMMON
@given(seed=st.integers(0, 999), dtype=st.sampled_from(sorted(inputs.MOST)), share=st.floats(0, 1))
def test_no_finite_input_gives_an_infinite_gradient(key: str, seed: int, dtype: str, share: float) -> None:
    inputs.anything(key, seed, dtype, digits=share * inputs.MOST[dtype])


@pytest.mark.parametrize(
    "wrong",
    [
        Equals("ppo_clip"),
        Equals("ppo_clip", "gradient", scale=2.0, on="the old policy"),
        Bound("spo", theirs={"objective.surrogate.epsilon": 0.1}),
        Limit("spo", theirs={"objective.surrogate": "Importance"}, setting="objective.surrogate.epsilon", to=0.1),
        Stationary("objective.value.clip_range"),
    ],
    ids=str,
)
def test_a_wrong_relation_is_noticed(wrong: relations.Relation) -> None:
    method = batches.method("spo", **{"objective.value.clip_range": 0.3})
    with pytest.raises(AssertionError):
        relations.holds(wrong, method, 0)


def test_a_broken_method_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tr.parts.SPO, "formula", lambda self, r, advantage: -(r**2) * advantage)
    wrong = [column for column in ("pins", "relations") if cell(FAST[column], "spo").state == "failed"]
    assert wrong == ["pins", "relations"]
    monkeypatch.setattr(tr.parts.SPO, "formula", lambda self, r, advantage: (r.sum() - r) * advantage)
    assert "padding" in cell(FAST["inputs"], "spo").says
    monkeypatch.setattr(tr.parts.SPO, "formula", lambda self, r, advantage: advantage / (r - 1))
    assert cell(FAST["inputs"], "spo").state == "failed"
