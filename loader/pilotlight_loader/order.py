"""Record in which order a model reads its weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from pilotlight_loader.module_tensors import module_tensors


def record_execution_order(module: nn.Module, forward: Callable[[], object]) -> list[str]:
    """Names of all parameters and buffers, by when their owning module first runs in *forward*.

    Tensors of modules that never run stand last, tied ones stand once, where they are first read.
    """
    owners: dict[int, int] = {}  # id of a module -> its rank

    def note(owner: nn.Module, _inputs: object) -> None:
        owners.setdefault(id(owner), len(owners))

    hooks = [owner.register_forward_pre_hook(note) for owner in module.modules()]
    try:
        forward()
    finally:
        for hook in hooks:
            hook.remove()
    # The sort is stable: within one module, and among those that never ran, registration order.
    ranked = sorted(
        module_tensors(module), key=lambda entry: owners.get(id(entry.module), len(owners))
    )
    names: dict[int, str] = {}
    for entry in ranked:
        names.setdefault(id(entry.tensor), entry.name)
    return list(names.values())
