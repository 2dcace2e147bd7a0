"""What is remembered of each prompt: slips are told apart, and a state given in NumPy serves every library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import tightrein as tr
from tightrein.verify import batches

KEYS = ["dcpo_dynamic_clip", "single_stream_spo"]


@pytest.mark.parametrize("key", KEYS)
def test_a_forgotten_state_is_asked_for(key: str) -> None:
    method = batches.method(key)
    d = batches.decisions(batches.fields(0, method))
    with pytest.raises(tr.TightreinError, match=r"no state[\s\S]*init\(prompts=N\)"):
        method.prepare(d)
    with pytest.raises(tr.TightreinError, match="no state"):
        method.credit(d)
    assert np.isfinite(method.loss(method.prepare(d, method.init(9))).value)  # the loss itself remembers nothing


@pytest.mark.parametrize("library", ["NumPy", "PyTorch", "JAX"])
@pytest.mark.parametrize("key", KEYS)
def test_prompts_without_a_place_are_named(key: str, library: str) -> None:
    method = batches.method(key)
    d = batches.decisions(batches.fields(0, method), library)
    with pytest.raises(tr.TightreinError, match=r"outside 0\.\.1[\s\S]*not 2"):
        method.prepare(d, method.init(2))


@pytest.mark.parametrize("library", ["PyTorch", "JAX"])
@pytest.mark.parametrize("key", KEYS)
def test_a_state_in_numpy_serves_every_library(key: str, library: str) -> None:
    method = batches.method(key)
    made = batches.fields(0, method)
    expected: Any = method.prepare(batches.decisions(made), method.init(9)).advantage
    found = method.prepare(batches.decisions(made, library), method.init(9)).advantage
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_forgetting_must_be_an_interval() -> None:
    with pytest.raises(tr.TightreinError, match="low <= high"):
        tr.parts.BetaTracker(low=0.97)
