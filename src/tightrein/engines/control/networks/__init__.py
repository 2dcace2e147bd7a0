"""Actor-critic networks: what they read, what they are made of, and how one is built for an environment."""

from tightrein.engines.control.networks import achievements, hyperbolic, quantile  # noqa: F401  # they register
from tightrein.engines.control.networks.actor_critic import ActorCritic, Outputs
from tightrein.engines.control.networks.architecture import Architecture
from tightrein.engines.control.networks.convolution import automatic
from tightrein.engines.control.networks.inputs import Inputs
from tightrein.engines.control.networks.layers import MLP, out_axes

__all__ = ["MLP", "ActorCritic", "Architecture", "Inputs", "Outputs", "automatic", "out_axes"]
