"""Change states between the layers of a running model: token prepending, contrastive steering.

By hooks on transformers' own layers; no model file is copied and none is changed for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["changed_inputs", "last_states", "prepend_last", "steer_last"]


def last_states(states: Tensor, mask: Tensor) -> Tensor:
    """Return the state of each row's last real token, (B, D).

    Args:
        states: float tensor (B, T, D).
        mask: bool tensor (B, T), True for real tokens; padding may be on either side.
    """
    return states[torch.arange(len(states), device=states.device), _last(mask)]


def prepend_last(states: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Return states with each row's last one written to a place before the text.

    Args:
        states: float tensor (B, T, D).
        mask: bool tensor (B, T), True for real tokens.
        places: bool tensor (B, T), True where the last state is to be written.

    Paper: Fu et al. 2024, arXiv 2412.11556.

    Example:
        >>> states = torch.tensor([[[1.0], [2.0], [3.0]]])
        >>> there = torch.tensor([[True, False, False]])
        >>> prepend_last(states, torch.ones(1, 3, dtype=torch.bool), there).flatten().tolist()
        [3.0, 2.0, 3.0]
    """
    return torch.where(places[:, :, None], last_states(states, mask)[:, None], states)


def steer_last(states: Tensor, mask: Tensor, away: Tensor, strength: float) -> Tensor:
    """Return states of which each row's last is moved: ``a + strength (a - b)``.

    Args:
        states: float tensor (B, T, D).
        mask: bool tensor (B, T), True for real tokens.
        away: float tensor (B, D), b.
        strength: 0 changes nothing.

    Paper: Cheng et al. 2025, arXiv 2505.12831, which steers values inside the attention; we steer
        the state between two layers.
    """
    last = last_states(states, mask)
    moved = last + strength * (last - away)
    there = torch.arange(states.shape[1], device=states.device) == _last(mask)[:, None]
    return torch.where(there[:, :, None], moved[:, None].to(states.dtype), states)


@contextmanager
def changed_inputs(
    layers: nn.ModuleList, changes: dict[int, Callable[[Tensor], Tensor]]
) -> Iterator[None]:
    """Change what some layers read while the block runs.

    Args:
        layers: The layers of a model.
        changes: Layer -> what its input (B, T, D) is replaced with.
    """

    def hook(change: Callable[[Tensor], Tensor]) -> Any:
        def run(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
            if args:
                return (change(args[0]), *args[1:]), named
            return args, {**named, "hidden_states": change(named["hidden_states"])}

        return run

    with ExitStack() as stack:
        for place, change in changes.items():
            handle = layers[place].register_forward_pre_hook(hook(change), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _last(mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, places, -1).amax(dim=1).clamp(min=0)
