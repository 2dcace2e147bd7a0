"""A small problem with matrices, vectors and two bad batches, minimised by either form of a step."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

SHAPES = (8, 4), (4,), (6, 8), (8, 6)
AXES = (None, None, 0, 1)  # an embedding, a bias, a Linear layer's weight, and a weight [in, out]
BAD = (11, 26)


def tensors(seed):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape) for shape in SHAPES]


def size(k):
    return 100.0 if k in BAD else 1.0


def loss(parameters, targets, scale):
    errors = [p - t for p, t in zip(parameters, targets, strict=True)]
    return scale * sum((e**4).sum() / 4 + (e**2).sum() for e in errors)


def with_optax(step, steps=30, axes=AXES):
    parameters, targets = [jnp.asarray(x) for x in tensors(0)], tensors(1)
    form = step.optax(steps, axes)
    state = form.init(parameters)

    @jax.jit
    def one(parameters, state, scale):
        gradients = jax.grad(loss)(parameters, targets, scale)
        moves, state = form.update(gradients, state, parameters)
        return jax.tree.map(jnp.add, parameters, moves), state

    for k in range(steps):
        parameters, state = one(parameters, state, size(k))
    return [np.asarray(p) for p in parameters], state


class Torch:
    """The same in PyTorch, one step at a time."""

    def __init__(self, step, steps=30, axes=AXES, dtype=torch.float64):
        self.parameters = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in tensors(0)]
        self.targets = [torch.tensor(x, dtype=dtype) for x in tensors(1)]
        self.optimizer, self.schedule = step.torch(self.parameters, steps, axes)
        self.norms = []

    def run(self, first, last):
        for k in range(first, last):
            self.optimizer.zero_grad()
            loss(self.parameters, self.targets, size(k)).backward()
            self.optimizer.step()
            self.schedule.step()
            self.norms.append(self.optimizer.figures)
        return [p.detach().clone() for p in self.parameters]
