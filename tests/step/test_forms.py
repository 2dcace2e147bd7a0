"""One definition, two forms: Optax and PyTorch agree, and each keeps the habits of its library."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from step_problem import AXES, Torch, tensors, with_optax

import tightrein as tr
from tightrein import TightreinError
from tightrein.step import (
    L1,
    L2,
    Adam,
    ExactPolar,
    LInf,
    Muon,
    NTRMomentum,
    RMSScale,
    Spectral,
    ZClip,
    ZClipMean,
    ZClipPercentile,
)  # fmt: skip

STEPS = {
    "adam": Adam(1e-2, max_grad_norm=1.0),
    "schedule": Adam(1e-2, warmup=5, anneal=True),
    "zclip": Adam(1e-2, clipping=ZClip(collect=8), warmup=5, anneal=True),
    "zclip, mean": Adam(1e-2, clipping=ZClipMean(collect=8, skip_spikes=True), max_grad_norm=30.0),
    "zclip, percentile": Adam(1e-2, clipping=ZClipPercentile(collect=8)),
    "muon": Muon(),
    "muon, all": Muon(anneal=True, warmup=3, weight_decay=0.1, clipping=ZClip(collect=8)),
    "muon, exact": Muon(polar=ExactPolar(), scale=RMSScale(), nesterov=False),
    "ntr, layers": NTRMomentum(),
    "ntr, l1": NTRMomentum(norm=L1()),
    "ntr, l2": NTRMomentum(norm=L2(), extrapolate=True, anneal=True),
    "ntr, l_inf": NTRMomentum(norm=LInf(), from_gradient=False),
    "ntr, spectral": NTRMomentum(norm=Spectral(), weight_decay=0.1, extrapolate=True),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_both_forms_visit_the_same_points_for_30_steps(step):
    mine, _ = with_optax(step)
    for a, b in zip(mine, Torch(step).run(0, 30), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_a_torch_run_goes_on_bit_for_bit_from_its_state_dict(step):
    whole, first = Torch(step), Torch(step)
    expected = whole.run(0, 30)
    first.run(0, 15)
    second = Torch(step)
    with torch.no_grad():
        for p, q in zip(second.parameters, first.parameters, strict=True):
            p.copy_(q)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.schedule.load_state_dict(first.schedule.state_dict())
    for a, b in zip(second.run(15, 30), expected, strict=True):
        assert torch.equal(a, b)
    assert second.norms == whole.norms[15:]


def test_clipping_is_reported_by_both_forms():
    step = STEPS["zclip"]
    run = Torch(step)
    run.run(0, 30)
    _, state = with_optax(step)
    figures = step.figures(state)
    assert figures.keys() == run.norms[-1].keys() == {"grad_norm", "grad_norm_applied", "spike_fraction"}
    assert {k: pytest.approx(float(v)) for k, v in figures.items()} == run.norms[-1]
    assert run.norms[-1]["spike_fraction"] == 2 / 30
    assert run.norms[26]["grad_norm_applied"] < 0.02 * run.norms[26]["grad_norm"]


def test_the_optax_form_runs_under_vmap_as_it_runs_alone():
    step = STEPS["muon, all"]
    form, starts = step.optax(4, AXES), [jnp.stack([jnp.asarray(x), 2 * jnp.asarray(x)]) for x in tensors(0)]

    def run(parameters):
        state = form.init(parameters)
        for _ in range(4):
            moves, state = form.update(parameters, state, parameters)
            parameters = jax.tree.map(jnp.add, parameters, moves)
        return parameters

    both, alone = jax.jit(jax.vmap(run))(starts), run([x[1] for x in starts])
    for a, b in zip(both, alone, strict=True):
        np.testing.assert_allclose(a[1], b, atol=1e-12)


def test_warm_up_rises_linearly_and_annealing_falls_linearly():
    step = Adam(1.0, warmup=4, anneal=True)
    run = Torch(step, steps=10)
    rates = []
    for k in range(10):
        rates.append(run.optimizer.param_groups[0]["lr"])
        run.run(k, k + 1)
    assert rates == pytest.approx([min(1, (n + 1) / 4) * (1 - n / 10) for n in range(10)])


def test_muon_moves_hidden_matrices_and_adam_the_rest():
    run = Torch(Muon())
    matrices, others = run.optimizer.param_groups
    assert [p.shape for p in matrices["params"]] == [(6, 8), (8, 6)]
    assert (matrices["lr"], others["lr"], others["betas"], others["eps"]) == (0.02, 3e-4, (0.9, 0.95), 1e-10)


def test_muon_without_a_hidden_matrix_says_so():
    with pytest.raises(TightreinError, match="hidden matrices, and here is none"):
        Muon().torch([torch.zeros(3, requires_grad=True)], 10, [None])
    with pytest.raises(TightreinError, match="two hidden layers"):
        Muon().optax(10)


@pytest.mark.parametrize("step", [Adam(), Muon(), NTRMomentum(clipping=ZClip())], ids=["adam", "muon", "ntr"])
def test_a_gradient_that_is_not_finite_moves_nothing(step):
    run = Torch(step)
    before = run.run(0, 3)
    kept = copy.deepcopy(run.optimizer.state_dict())
    run.parameters[0].grad.fill_(float("nan"))
    with pytest.raises(TightreinError, match="norm of the gradient is nan"):
        run.optimizer.step()
    assert all(torch.equal(p, b) for p, b in zip(run.parameters, before, strict=True))
    assert str(kept) == str(run.optimizer.state_dict())


def test_parameters_without_a_gradient_stay():
    run = Torch(NTRMomentum(clipping=ZClip()))
    run.optimizer.zero_grad()
    run.optimizer.step()  # nothing at all has a gradient
    run.parameters[2].square().sum().backward()
    run.optimizer.step()
    moved = [not np.array_equal(p.detach().numpy(), x) for p, x in zip(run.parameters, tensors(0), strict=True)]
    assert moved == [False, False, True, False]


def test_half_precision_is_moved_and_statistics_are_not_halved():
    run = Torch(Adam(1e-2, clipping=ZClip(collect=2)), dtype=torch.bfloat16)
    assert all(p.isfinite().all() for p in run.run(0, 5))
    state = run.optimizer.state_dict()["state"]["clipping"]
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in state.values())
    again = Torch(Adam(1e-2, clipping=ZClip(collect=2)), dtype=torch.bfloat16)
    again.optimizer.load_state_dict(run.optimizer.state_dict())
    kept = again.optimizer.state_dict()["state"]["clipping"]
    assert all(torch.equal(kept[name], x) for name, x in state.items())


def test_an_engines_preset_keeps_what_makes_a_step_special():
    preset = Adam(2e-3, beta2=0.99, eps=1e-3, max_grad_norm=1.0, anneal=True)
    assert Adam().hosted(preset) == preset
    assert tr.method("zclip").step.hosted(preset) == preset.replace(clipping=ZClip())
    muon = Muon().hosted(preset)
    assert (muon.learning_rate, muon.scale, muon.anneal, muon.aux.rate) == (2e-3, RMSScale(), True, 2e-3)
    assert NTRMomentum(norm=L2()).hosted(preset) == NTRMomentum(2e-3, norm=L2(), anneal=True)
