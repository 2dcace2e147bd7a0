"""The value head: an estimate of what is still to come, read off the last hidden state of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tightrein.engines.language.config import HEAD, LanguageConfig
from tightrein.engines.language.models.policy import Policy
from tightrein.engines.language.training import checkpointing
from tightrein.errors import TightreinError, require

LEARNING_RATE = 1e-3  # of one layer that starts at 0, whatever the size of the model below it


class Critic:
    """One linear layer, 0 at first, with an optimizer of its own.

    It reads the hidden state that the next token is predicted from. Its error reaches the model below too, by way of
    the method's own loss and optimizer: a layer on features made for prediction alone explains little.
    """

    def __init__(self, policy: Policy, learning_rate: float, max_grad_norm: float | None) -> None:
        width = int(policy.model.config.get_text_config().hidden_size)
        self.head = torch.nn.Linear(width, 1, device=policy.device)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)
        self.optimizer = torch.optim.Adam(self.head.parameters(), learning_rate)
        self._learning_rate, self._limit = learning_rate, max_grad_norm

    def __call__(self, hidden: Tensor) -> Tensor:
        """Values [...] from hidden states [..., H]."""
        values: Tensor = self.head(hidden.float())[..., 0]
        return values

    def step(self, scale: float = 1.0) -> None:
        """Moves the layer along the gradients that it has; scale: of the learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = scale * self._learning_rate
        if self._limit is not None:
            torch.nn.utils.clip_grad_norm_(self.head.parameters(), self._limit)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def arrays(self) -> dict[str, Any]:
        """The layer and its optimizer's moments."""
        head = {f"head.{name}": tensor.detach().cpu().numpy() for name, tensor in self.head.state_dict().items()}
        return {**head, **checkpointing.under("optimizer.", checkpointing.optimizer_arrays(self.optimizer))}

    def restore(self, arrays: Mapping[str, Any]) -> None:
        """Put back what `arrays` gave."""
        head = checkpointing.within(arrays, "head.")
        self.load({name: torch.from_numpy(array.copy()) for name, array in head.items()}, "the checkpoint")
        checkpointing.restore_optimizer(self.optimizer, checkpointing.within(arrays, "optimizer."))

    def save(self, folder: Path) -> None:
        """Write the layer into a model folder."""
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.head.state_dict().items()}
        require("safetensors.torch", "language").save_file(tensors, folder / HEAD)

    def begin_from(self, folder: Path) -> None:
        """Start with the layer that an earlier run left in its model folder, if there is one.

        Raises:
            TightreinError: it belongs to a model of another width.
        """
        if (folder / HEAD).is_file():
            self.load(require("safetensors.torch", "language").load_file(folder / HEAD), str(folder / HEAD))

    def load(self, tensors: Mapping[str, Tensor], where: str) -> None:
        """Take over the layer's parameters; `where` they come from is named in the error."""
        try:
            self.head.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise TightreinError(
                f"the value head in {where} does not fit the model", "remove it, or take the model it was saved with"
            ) from error


def critic_for(config: LanguageConfig, policy: Policy, method: Any) -> Critic:
    """The value head of a run: new, or the one in the model's folder."""
    critic = Critic(policy, LEARNING_RATE, method.step.max_grad_norm)
    critic.begin_from(Path(config.model))
    return critic
