"""Devices by name."""

import torch

from itda_lightning.errors import InputError


def device_of(name: str | torch.device, choices: str = "auto, cpu, cuda or cuda:N") -> torch.device:
    """Return the device of a name, of which "auto" is a GPU if there is one, else the CPU.

    Raises InputError for what is no device, or none that is available here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"{name!r} is not a device: give {choices}") from error
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise InputError(
            f"the device {name} was asked for but {torch.cuda.device_count()} CUDA devices are available: "
            "use device=auto or device=cpu"
        )
    try:
        if device.type not in ("cpu", "cuda"):
            torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # of a kind that this machine, or torch, lacks
        raise InputError(f"the device {name} is not available here: give {choices}") from error
    return device
