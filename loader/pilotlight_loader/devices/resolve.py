"""From what a user calls a device to the device."""

from __future__ import annotations

import torch

from pilotlight_loader.devices.cpu import CpuDevice
from pilotlight_loader.devices.cuda import CudaDevice
from pilotlight_loader.devices.device import Device
from pilotlight_loader.errors import DeviceError


def resolve_device(name: str | torch.device) -> Device:
    """A new device, which the caller closes. Raises DeviceError for a kind that is not known."""
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise DeviceError(f"{name!r} is no device: {error}") from error
    if device.type == "cpu":
        return CpuDevice()
    if device.type == "cuda":
        return CudaDevice(device.index)
    raise DeviceError(f"cannot load to {device.type!r}: cpu and cuda are known")
