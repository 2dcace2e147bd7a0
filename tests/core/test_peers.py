"""The comparison with other libraries covers what they have, and would notice."""

from __future__ import annotations

import inspect

import pytest

import tightrein as tr
from tightrein.arrays import at_hand
from tightrein.verify.columns import FAST, cell
from tightrein.verify.peers import trl_losses, verl_correction, verl_losses, verl_parts
from tightrein.verify.peers.verl import MODES, verl

pytestmark = pytest.mark.skipif(not at_hand("verl"), reason="verl is not installed")


def test_every_policy_loss_of_verl_is_compared() -> None:
    compared = inspect.getsource(verl_losses) + inspect.getsource(verl_correction)
    core = verl("core_algos")
    assert [name for name in core.POLICY_LOSS_REGISTRY if f'"{name}"' not in compared] == []
    source = inspect.getsource(core.agg_loss)
    assert all(f'"{mode}"' in source for mode in MODES)
    assert len(MODES) == 5  # as many as agg_loss knows
    with pytest.raises(ValueError, match="Invalid loss_agg_mode"):
        core.agg_loss(1.0, 1.0, "another")


def test_every_penalty_of_verl_is_compared() -> None:
    compared = inspect.getsource(verl_parts)
    known = ("kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3")
    source = inspect.getsource(verl("core_algos").kl_penalty_forward)
    assert all(f'"{name}"' in source and name in compared for name in known)


def test_every_loss_type_of_trl_is_compared() -> None:
    trl = pytest.importorskip("trl")
    source = inspect.getsource(trl.GRPOTrainer._compute_loss)
    compared = inspect.getsource(trl_losses)
    for name in ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo"):
        assert f'"{name}"' in source
        assert f'"{name}"' in compared


@pytest.mark.parametrize(
    ("key", "part"),
    [("sapo", "SAPO"), ("gmpo", "GeometricClip"), ("dppo_tv", "BinaryTV"), ("tis", "TruncatedImportance")],
)
def test_a_wrong_formula_is_noticed(key: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, worse = getattr(tr.parts, part), 2.0 if part == "BinaryTV" else 1.001
    name = {"BinaryTV": "distance", "SAPO": "formula"}.get(part, "__call__")
    right = getattr(kind, name)
    monkeypatch.setattr(kind, name, lambda *given: worse * right(*given))
    assert cell(FAST["peers"], key).state == "failed"
