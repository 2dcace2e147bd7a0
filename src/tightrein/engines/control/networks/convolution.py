"""Torsos for images: of Nature's DQN, of IMPALA, and of MinAtar. A policy and its value network share one."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from tightrein.engines.control.networks.layers import MLP, orthogonal, scaled
from tightrein.errors import TightreinError

Array = Any

PIECE = 256  # images that become floats at once
SMALLEST = {"nature": 36, "impala": 8, "minatar": 3}  # side of an image that every layer still finds something in
BLOCKS = 6  # residual blocks of IMPALA's network


class Image(NamedTuple):
    """How an observation is read as an image."""

    height: int
    width: int
    channels: int
    first: bool  # whether channels are its first axis

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Image:
        """Channels are the smaller of the first and the last of three axes, the last where they are equal.

        Two axes are an image of one channel.

        Raises:
            TightreinError: it has fewer axes, or more.
        """
        if len(shape) == 2:
            return cls(shape[0], shape[1], 1, first=False)
        if len(shape) != 3:
            raise TightreinError(
                f"observations of shape {shape} are no images, which have two or three axes", "use --network mlp"
            )
        if shape[0] < shape[2]:
            return cls(shape[1], shape[2], shape[0], first=True)
        return cls(shape[0], shape[1], shape[2], first=False)

    def rows(self, seen: Array) -> Array:
        """Images [N, *shape] as [N, height, width, channels]."""
        if self.first:
            return jnp.moveaxis(seen, -3, -1)
        return seen.reshape(-1, self.height, self.width, self.channels)


def automatic(shape: tuple[int, ...], pixels: bool) -> str:
    """The network for observations of `shape`: nature for images, minatar for small ones, mlp for all else.

    Whatever has three axes is an image; what has two is one if it holds pixels (whole numbers of 0 to 255).
    """
    if len(shape) != 3 and not (pixels and len(shape) == 2):
        return "mlp"
    image = Image.of(shape)
    fitting = (name for name in ("nature", "minatar") if min(image.height, image.width) >= SMALLEST[name])
    return next(fitting, "mlp")


def check_image(network: str, shape: tuple[int, ...]) -> None:
    """Raises TightreinError where `network` cannot read observations of `shape`."""
    image, least = Image.of(shape), SMALLEST[network]
    if min(image.height, image.width) < least:
        raise TightreinError(
            f"observations of shape {shape} are images of {image.height} x {image.width} with {image.channels} "
            f"channels, and {network} needs {least} x {least} at least",
            f"use --network {automatic(shape, pixels=True)}",
        )


class Convolution(eqx.Module):
    """A convolution of images [N, height, width, channels], which XLA is not slower at on CPUs than channels first."""

    weight: Array  # [kernel * kernel * channels, outputs]: a matrix, as optimizers of matrices see it
    bias: Array
    kernel: int = eqx.field(static=True)
    stride: int = eqx.field(static=True)
    padding: str = eqx.field(static=True)

    def __init__(
        self, rng: np.random.Generator, channels: int, outputs: int, kernel: int, stride: int = 1,
        padding: str = "VALID", gain: float = math.sqrt(2.0),
    ) -> None:  # fmt: skip
        """Orthogonal weights with `gain`, biases 0."""
        self.weight = orthogonal(rng, kernel * kernel * channels, outputs, gain)
        self.bias = jnp.zeros(outputs)
        self.kernel, self.stride, self.padding = kernel, stride, padding

    def __call__(self, x: Array) -> Array:
        """[N, height, width, channels] -> [N, height', width', outputs]."""
        kernel = self.weight.reshape(self.kernel, self.kernel, -1, self.weight.shape[-1])
        strides, axes = (self.stride, self.stride), ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, strides, self.padding, dimension_numbers=axes) + self.bias


class Plain(eqx.Module):
    """Convolutions, each followed by relu."""

    convolutions: tuple[Convolution, ...]

    def __call__(self, x: Array) -> Array:
        """Images to images."""
        for convolution in self.convolutions:
            x = jax.nn.relu(convolution(x))
        return x


class Residual(eqx.Module):
    """x + a small network of x: relu, convolution, relu, convolution."""

    first: Convolution
    second: Convolution

    def __init__(self, rng: np.random.Generator, channels: int) -> None:
        """The second one's gain is such that all blocks together double the variance about, and no more."""
        self.first = Convolution(rng, channels, channels, 3, padding="SAME")
        self.second = Convolution(rng, channels, channels, 3, padding="SAME", gain=math.sqrt(2.0 / BLOCKS))

    def __call__(self, x: Array) -> Array:
        """Images to images of the same shape."""
        return x + self.second(jax.nn.relu(self.first(jax.nn.relu(x))))


class Stage(eqx.Module):
    """A convolution, a pooling that halves the sides (rounded up), and two residual blocks."""

    convolution: Convolution
    blocks: tuple[Residual, ...]

    def __init__(self, rng: np.random.Generator, channels: int, outputs: int) -> None:
        self.convolution = Convolution(rng, channels, outputs, 3, padding="SAME", gain=1.0)
        self.blocks = tuple(Residual(rng, outputs) for _ in range(2))

    def __call__(self, x: Array) -> Array:
        """Images to images."""
        x = self.convolution(x)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "SAME")
        for block in self.blocks:
            x = block(x)
        return x


class Stages(eqx.Module):
    """Stages, with relu after the last."""

    stages: tuple[Stage, ...]

    def __call__(self, x: Array) -> Array:
        """Images to images."""
        for stage in self.stages:
            x = stage(x)
        return jax.nn.relu(x)


class Torso(eqx.Module):
    """Images of the environment's own shape to features: convolutions, then a dense layer with relu."""

    convolutions: Plain | Stages
    dense: MLP
    image: Image = eqx.field(static=True)
    axes: int = eqx.field(static=True)  # of an observation

    def __call__(self, seen: Array) -> Array:
        """[..., *shape] -> [..., features]. Of many images only some at a time are floats."""
        leading, shape = seen.shape[: seen.ndim - self.axes], seen.shape[seen.ndim - self.axes :]
        images = seen.reshape(-1, *shape)
        count = images.shape[0]
        if not isinstance(count, int) or count <= PIECE:  # a count that is no number is that of an exported network
            return self._features(images).reshape(*leading, -1)
        whole = count // PIECE * PIECE
        pieces = jax.lax.map(self._features, images[:whole].reshape(-1, PIECE, *shape))
        features = pieces.reshape(whole, -1)
        if whole < count:
            features = jnp.concatenate([features, self._features(images[whole:])])
        return features.reshape(*leading, -1)

    @property
    def hidden_matrices(self) -> tuple[Array, ...]:
        """The matrices between the first layer and the heads."""
        nodes = jax.tree.leaves(self.convolutions, is_leaf=lambda node: isinstance(node, Convolution))
        return (*(node.weight for node in nodes[1:]), *self.dense.weights)

    def _features(self, images: Array) -> Array:
        maps = self.convolutions(scaled(self.image.rows(images)))
        return jax.nn.relu(self.dense(maps.reshape(maps.shape[0], -1)))


def nature(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Torso, int]:
    """32 maps 8 x 8 / 4, 64 maps 4 x 4 / 2, 64 maps 3 x 3, dense 512. Mnih et al., Nature 518 (2015)."""
    image = Image.of(shape)
    convolutions = Plain(
        (
            Convolution(rng, image.channels, 32, 8, 4),
            Convolution(rng, 32, 64, 4, 2),
            Convolution(rng, 64, 64, 3),
        )
    )
    return _torso(rng, convolutions, image, shape, 512)


def impala(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Torso, int]:
    """Stages of 16, 32 and 32 maps, dense 256. Espeholt et al., arXiv 1802.01561, figure 3 (the large network)."""
    image = Image.of(shape)
    widths = ((image.channels, 16), (16, 32), (32, 32))
    return _torso(rng, Stages(tuple(Stage(rng, *pair) for pair in widths)), image, shape, 256)


def minatar(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Torso, int]:
    """16 maps 3 x 3, dense 128. Young and Tian, arXiv 1903.03176."""
    image = Image.of(shape)
    return _torso(rng, Plain((Convolution(rng, image.channels, 16, 3),)), image, shape, 128)


def _torso(
    rng: np.random.Generator, convolutions: Plain | Stages, image: Image, shape: tuple[int, ...], features: int
) -> tuple[Torso, int]:
    seen = jnp.zeros((1, image.height, image.width, image.channels))
    flat = math.prod(jax.eval_shape(lambda x: convolutions(x), seen).shape)
    return Torso(convolutions, MLP(rng, [flat, features], math.sqrt(2.0)), image, len(shape)), features
