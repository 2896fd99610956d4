"""GPTQ for a model in memory: layer by layer, on what its rounded predecessors give."""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pilotlight_loader.freed_memory import give_back
from pilotlight_loader.hastened import hastened
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.matrix import Matrix, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding, check_weight
from pilotlight_platform.engine.calibration_windows import CalibrationError
from pilotlight_platform.engine.input_sums import InputSums
from pilotlight_platform.engine.scratch import in_scratch

_LAYER = re.compile(r"^(.*?)\.(\d+)\..+\.weight$")  # the first list, and the place in it


@dataclass(slots=True)
class _Inputs:
    """What one window gives the present layer, and what the model calls each layer with."""

    hidden: torch.Tensor
    # Not the same for all: some models have positions and masks of two kinds.
    calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]]


class _CapturedError(Exception):
    """Ends a forward pass where nothing after it is wanted."""


class GptqRounding:
    """Rounds what is in a decoder's layers with GPTQ, the rest to the nearest.

    Holds the windows' hidden states and the sums of what those of one layer's *weights* read that
    are yet to be rounded. *model* gets the rounded weights, from files in *directory* that nobody
    sees: they would be as much memory as the model.
    """

    def __init__(
        self,
        model: nn.Module,
        windows: list[torch.Tensor],
        directory: Path,
        weights: Container[str],
    ) -> None:
        self._model = model
        self._windows = windows
        self._weights = weights
        self._directory = directory
        self._nearest = NearestRounding()
        self._stack: str | None = None  # the list of layers that it is in
        self._at = 0  # the present layer's place there
        self._inputs: list[_Inputs] = []
        self._sums = InputSums()  # of the present layer

    def matrix(self, name: str, weight: torch.Tensor, scheme: Scheme) -> Matrix:
        """As Rounding.matrix(). Raises ValueError, naming *name*; DiskFullError."""
        check_weight(name, weight)
        match = _LAYER.match(name)
        if match is None:
            made = self._nearest.matrix(name, weight, scheme)
        else:
            self._reach(match.group(1), int(match.group(2)))
            root = self._sums.take_root(name)
            if root is not None:
                made = gptq(weight, root, scheme)
            else:  # an expert that no token chose
                made = self._nearest.matrix(name, weight, scheme)
            del root  # large
        parameter = self._model.get_parameter(name)
        rounded = made.dequantize(parameter.dtype)
        ((_, parameter.data),) = in_scratch([(name, rounded)], self._directory)
        return made

    def _reach(self, stack: str, at: int) -> None:
        """Make this layer the present one: its inputs, and the sums that its weights read."""
        if (stack, at) == (self._stack, self._at):
            return
        self._sums = InputSums()  # never those of two layers
        if stack == self._stack and at < self._at:
            return  # its inputs are gone: to the nearest
        layers = list(self._model.get_submodule(stack).children())
        # What inference_mode() makes could not be written in outside of it.
        with torch.no_grad(), hastened(self._model):
            if stack != self._stack:
                self._inputs = [_capture(self._model, layers[at:], ids) for ids in self._windows]
                self._at = at
            for inputs in self._inputs:
                for passed in layers[self._at : at]:  # their weights are the rounded ones by now
                    inputs.hidden = _run(passed, inputs)
            self._stack, self._at = stack, at
            with self._sums.summing(f"{stack}.{at}", layers[at], self._weights):
                for inputs in self._inputs:
                    _run(layers[at], inputs)


def _run(layer: nn.Module, inputs: _Inputs) -> torch.Tensor:
    if layer not in inputs.calls:
        return inputs.hidden  # the model does not run it, either
    args, kwargs = inputs.calls[layer]
    output = layer(inputs.hidden, *args, **kwargs)
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    # Between the windows' states its activations would stay: 8 MB for each, in MPT-7B's shape.
    give_back()
    return hidden


def _capture(model: nn.Module, layers: list[nn.Module], ids: torch.Tensor) -> _Inputs:
    """What reaches the first of *layers*, and how each of them is called."""
    found: list[_Inputs] = []

    def keep(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        if not found:
            found.append(_Inputs(hidden, {}))
        found[0].calls[layer] = args[1:], kwargs
        if layer is layers[-1]:
            raise _CapturedError

    hooks = [layer.register_forward_pre_hook(keep, with_kwargs=True) for layer in layers]
    try:
        model(input_ids=ids, use_cache=False)
    except _CapturedError:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    give_back()
    if not found:
        raise CalibrationError("no layer with quantized weights ever runs")
    return found[0]
