"""Devices by name."""

import torch

from rotanext.errors import UserError, first_line


def find_device(name: str) -> torch.device:
    """The torch device of that name, "auto" being the best there is; raises UserError where it does not exist."""
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return accelerator or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" and the like make tensors, but hold no numbers
    except Exception as error:  # each backend raises its own kind, import errors among them
        reason = first_line(error)
        raise UserError(f"device '{name}' cannot be used: {reason}. Use cpu, cuda, cuda:1, mps or auto.") from None
    return device
