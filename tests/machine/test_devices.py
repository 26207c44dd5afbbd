"""Devices by name: those that are here, and one line for all others."""

import pytest
import torch

from itda_lightning.errors import InputError
from itda_lightning.machine.devices import device_of


def test_a_device_that_is_here():
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")
    assert device_of("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu", r"^'gpu' is not a device: give auto, cpu, cuda or cuda:N$"),
        ("cuda:-2", r"^'cuda:-2' is not a device: give "),
        ("cuda:99", r"^the device cuda:99 was asked for but \d+ CUDA devices are available: use device=auto"),
        ("meta", r"^the device meta is not available here: give auto, cpu, cuda or cuda:N$"),
        ("xla", r"^the device xla is not available here: give "),
    ],
)
def test_others_are_one_line(name, message):
    with pytest.raises(InputError, match=message):
        device_of(name)
