"""The exact properties of the methods that read more than log-probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal

from ...arrays import convert
from ...credit import SetCredit
from ...decisions import Decisions
from ...distributions import Categorical
from ...errors import require
from ...selection.curvature import AdamStep, CurvatureMask, Gradient, GradientStep
from ..batches import autodiff, batch, gradients, method
from ..pin import pin

FREE = {"objective.reference.coef": 0.0}
TERM = "objective.terms.perception"


def _look(p: float, masked: float) -> Decisions:
    """One decision without advantage, of probability p, and `masked` where part of the prompt is masked."""
    made: dict[str, Any] = {"logp": np.log([[p]]), "logp_masked": np.log([[masked]])}
    found: Decisions = convert(Decisions(**made, logp_old=made["logp"], advantage=np.zeros((1, 1))), autodiff())
    return found


def _gradient(d: Decisions, **settings: Any) -> tuple[float, float]:
    """Gradient by logp and by logp_masked."""
    changes = {f"{TERM}.{name}": x for name, x in settings.items()}
    found = gradients(method("papo_perception", **changes), d)
    return float(found["logp"][0, 0]), float(found["logp_masked"][0, 0])


def _term(d: Decisions, **settings: Any) -> float:
    changes = {f"{TERM}.{name}": x for name, x in settings.items()}
    return float(method("papo_perception", **changes).loss(d).value)


@pin("papo_perception")
def papo_where_the_mask_changes_nothing() -> None:
    """Where the masked prompt says as much the divergence is 0, and so is its gradient."""
    d = _look(0.3, 0.3)
    assert abs(_term(d, entropy=0.0)) < 1e-15
    assert_allclose(_gradient(d, entropy=0.0), 0, atol=1e-15)


@pin("papo_perception")
def papo_values() -> None:
    """p = 1/2, masked 1/4: k = 0.193147, coefficient -gamma/2; p < p_masked pushes p down, up to the cap."""
    d = _look(0.5, 0.25)
    assert_allclose(_term(d, entropy=0.0, coef=0.1), -0.1 * 0.193147, atol=1e-7)
    assert_allclose(_gradient(d, entropy=0.0, coef=0.1), [-0.05, 0.05])
    assert_allclose(_gradient(_look(0.1, 0.4), entropy=0.0, coef=0.1)[0], 0.3)
    assert_allclose(_gradient(_look(0.001, 0.4), entropy=0.0, coef=0.1, cap=None)[0], 39.9)
    assert _gradient(_look(0.001, 0.4), entropy=0.0, coef=0.1) == (0.0, 0.0)


@pin("papo_perception")
def papo_guards() -> None:
    """The guards minimise both entropies: coefficient -eta on each; a look without gradient gives none."""
    d = _look(0.3, 0.3)
    assert_allclose(_term(d, coef=0.1, entropy=0.05), -0.1 * np.log(0.3))
    assert_allclose(_gradient(d, coef=0.1, entropy=0.05), [-0.05, -0.05])
    assert _gradient(_look(0.5, 0.25), through=False)[1] == 0


@pin("papo_perception")
def papo_switched_off() -> None:
    """Without its coefficient nothing masked is read, and the loss is grpo's, bit for bit."""
    off = method("papo_perception", **{f"{TERM}.coef": 0.0})
    assert "logp_masked" not in off.needs
    d = batch(0, off)
    assert float(off.loss(d).value) == float(method("grpo", **FREE, high=0.3).loss(d).value)


def _step(
    pi: list[float], action: int, advantage: float, rate: float = 0.1, model: Any = None, state: Any = None
) -> tuple[float, float]:
    """m_H and m_F of one decision with hidden state (1, 2)."""
    d = Decisions(
        mask=np.ones((1, 1)), advantage=np.full((1, 1), advantage), hidden=np.array([[[1.0, 2.0]]]),
        action=np.array([[action]]), alternative=np.arange(len(pi))[None, None],
        dist_old=Categorical(np.log(pi)[None, None]),
    )  # fmt: skip
    found = CurvatureMask(GradientStep() if model is None else model, step_size=rate).predicted(d, state)
    return float(found[0][0, 0]), float(found[1][0, 0])


@pin("capo_curvature")
def capo_values() -> None:
    """Two alternatives, h = (1, 2), plain gradient, step 0.1: m_H = 0.25, m_F = 0.03125; and 0.5184, 0.32805."""
    assert_allclose(_step([0.5, 0.5], 0, 1.0), (0.25, 0.03125))
    assert_allclose(_step([0.9, 0.1], 1, -1.0), (0.1 * 8.1 - 0.005 * 58.32, 0.32805))


@pin("capo_curvature")
def capo_scaling() -> None:
    """Without advantage both are 0; twice the step is four times the shift; the first order never loses."""
    assert _step([0.3, 0.7], 0, 0.0) == (0.0, 0.0)
    one, two = _step([0.3, 0.7], 0, -0.5), _step([0.3, 0.7], 0, -0.5, rate=0.2)
    assert_allclose(two[1], 4 * one[1])
    for advantage in (-2.0, -0.1, 0.3, 5.0):
        assert _step([0.3, 0.7], 0, advantage, rate=1e-6)[0] > 0


@pin("capo_curvature")
def capo_predicts_the_step() -> None:
    """After W += rate A v h^T, log pi has moved by sqrt(2 m_F) and A pi / pi_old by m_H, up to higher orders."""
    pi, hidden = np.array([0.2, 0.5, 0.3]), np.array([1.0, 2.0])
    for advantage in (1.0, -1.0):
        error = []
        for rate in (1e-2, 1e-3):
            v = np.eye(3)[1] - pi
            logits = np.log(pi) + rate * advantage * np.outer(v, hidden) @ hidden
            change = float(logits[1] - np.log(np.exp(logits).sum()) - np.log(pi[1]))
            gain, shift = _step(list(pi), 1, advantage, rate)
            assert_allclose(0.5 * change**2, shift, rtol=30 * rate)
            error.append(abs(advantage * (np.exp(change) - 1) - gain))
        assert error[1] < 2e-3 * error[0], "of third order in the step"


@pin("capo_curvature")
def capo_adam() -> None:
    """Adam's step on a single decision is that of torch.optim.Adam on the output layer, moments included."""
    torch = require("torch", "language")
    model, pi, hidden = AdamStep(tokens=2, width=2), np.array([0.7, 0.3]), np.array([1.0, 2.0])
    layer = torch.nn.Parameter(torch.zeros((2, 2), dtype=torch.float64))
    optimizer = torch.optim.Adam([layer], lr=0.01, maximize=True)
    made: dict[str, Any] = {"hidden": hidden[None, None], "action": np.array([[1]]), "mask": np.ones((1, 1))}
    state = model.start()
    for advantage in (0.5, -1.0, 2.0):
        d = Decisions(**made, advantage=np.full((1, 1), advantage), dist_old=Categorical(np.log(pi)[None, None]))
        g, before = Gradient.of(d), layer.detach().clone()
        layer.grad = torch.from_numpy(advantage * np.outer(np.eye(2)[1] - pi, hidden))
        optimizer.step()
        moved = (layer.detach() - before).numpy() @ hidden / 0.01
        if state["steps"]:
            assert_allclose(model.logits(g, state)[0, 0], moved, rtol=1e-6)
        else:  # before there are moments it is the plain gradient
            assert_allclose(model.logits(g, state)[0, 0], advantage * 5 * (np.eye(2)[1] - pi))
        state = model.next(state, g)


@pin("capo_curvature")
def capo_masks() -> None:
    """Decisions beyond a threshold are masked; one-sided also what would make the objective smaller."""
    made: dict[str, Any] = {
        "mask": np.ones((1, 3)), "advantage": np.array([[1.0, 0.1, -3.0]]), "hidden": np.ones((1, 3, 1)),
        "action": np.zeros((1, 3), int), "alternative": np.tile(np.arange(2), (1, 3, 1)),
    }  # fmt: skip
    d = Decisions(**made, dist_old=Categorical(np.log([[[0.5, 0.5], [0.5, 0.5], [0.1, 0.9]]])))
    rule = CurvatureMask(GradientStep(), max_gain=0.3, max_shift=0.1, step_size=1.0)
    gain, shift = rule.predicted(d)
    assert_allclose(gain[0, :2], [0.5, 0.005])
    assert gain[0, 2] < 0.3 < abs(gain[0, 2])
    assert shift[0, 2] > 0.1
    assert_array_equal(rule(d).mask, [[0, 1, 0]])
    falling = CurvatureMask(GradientStep(), max_gain=9.0, max_shift=9e9, step_size=100.0)
    assert falling.predicted(d)[0][0, 2] < 0
    assert_array_equal(falling.replace(one_sided=True, max_gain=1e9)(d).mask, [[1, 1, 0]])
    assert_array_equal(falling.replace(max_gain=1e9)(d).mask, [[1, 1, 1]])


def _sets(reward: list[float], signature: list[int], **settings: Any) -> Any:
    """Advantage of the answers to one prompt, in their order; each counts as one decision."""
    n = len(reward)
    d = Decisions(
        mask=np.ones((n, 1)), reward=np.array(reward), signature=np.array(signature), group=np.zeros(n, int),
        random=np.linspace(0, 0.9, n)[:, None],
    )  # fmt: skip
    return SetCredit(**settings)(d).advantage[:, 0]


@pin("poly_ppo")
def poly_values() -> None:
    """Disjoint sets worth .25, .1875, 0, .25: their mean is .171875, A = .078125, .015625, -.171875, .078125."""
    reward = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
    signature = [0, 1, 2, 3, 0, 1, 2, 2, 0, 1, 2, 3, 4, 5, 6, 7]
    expected = np.repeat([0.078125, 0.015625, -0.171875, 0.078125], 4)
    assert_allclose(_sets(reward, signature), expected, atol=1e-15)


@pin("poly_ppo")
def poly_shares() -> None:
    """A member that failed has the advantage of its set; an answer in two sets the mean of theirs."""
    found = _sets([1.0, 1, 0, 1, 0, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0], sets=2)
    assert_allclose(found, [0.375] * 4 + [-0.375] * 4)
    f = np.array([0.75 * 1, 0.25 * 3 / 4, 0.0, 0.5 * 2 / 4])  # windows at 0, 2, 4, and at 6 around the end
    each = f - f.mean()
    expected = np.repeat((each + np.roll(each, 1)) / 2, 2)
    assert_allclose(_sets([1.0, 1, 0, 1, 0, 0, 0, 0], [0, 1, 2, 3, 0, 0, 0, 0]), expected)


@pin("poly_ppo")
def poly_equal_sets() -> None:
    """Sets that are worth the same have no advantage, exactly; with one answer each it is the centred reward."""
    assert not _sets([0.3] * 8, [5] * 8).any()
    assert not _sets([0.1, 0.7] * 8, [5, 6] * 8).any()
    assert_allclose(_sets([1.0, 0, 0.5, 0.1], [1, 1, 1, 1], size=1, sets=4), np.array([0.6, -0.4, 0.1, -0.3]))


@pin("poly_ppo")
def poly_without_diversity() -> None:
    """Where all answers differ it is REINFORCE with the mean reward of the set."""
    reward = np.random.default_rng(0).random(8)
    sets = reward.reshape(2, 4).mean(1)
    assert_allclose(_sets(list(reward), list(range(8)), sets=2), np.repeat(sets - sets.mean(), 4))
