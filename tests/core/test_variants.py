"""Every variant of every method, as exactly as the method itself."""

from __future__ import annotations

from typing import Any

import pytest

import tightrein as tr
from tightrein.verify.columns import FAST, cell

VARIANTS = [f"{key}:{name}" for key in tr.methods() for name, _ in tr.method(key).variants]
COLUMNS = ("arrays", "gradients", "differences", "inputs")
# TRL's means count answers without a single token, which are padding to everything else.
EXCEPT = {(f"loss_aggregation:trl_{mode}", "inputs") for mode in ("grpo", "dr_grpo", "luspo")}
# Every answer of the batch lies above the threshold of entropy, so that none is learned from.
EXCEPT |= {("gtpo:released", "differences")}


def _case(variant: str, column: str) -> Any:
    slow = column == "arrays"  # JAX compiles each of them; their gradients are compared without that
    return pytest.param(variant, column, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize(
    ("variant", "column"), [_case(v, c) for v in VARIANTS for c in COLUMNS if (v, c) not in EXCEPT]
)
def test_variants(variant: str, column: str) -> None:
    found = cell(FAST[column], variant)
    assert found.state in ("passed", "not applicable"), found.says
