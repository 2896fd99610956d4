"""GPTQ for a model in memory: layer by layer, on what its rounded predecessors give."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import torch
from torch import nn

from pilotlight_loader.freed_memory import give_back
from pilotlight_loader.quantize.gptq import gptq
from pilotlight_loader.quantize.matrix import Matrix, Scheme
from pilotlight_loader.quantize.nearest import NearestRounding, check_weight
from pilotlight_platform.engine.scratch import in_scratch

_WINDOWS = 64
_WINDOW_TOKENS = 256
_MIN_TOKENS = 512  # fewer say too little of what matters
# No token has much more than these characters; the tokenizer need not read all of a book.
_TOKEN_CHARACTERS = 16
_LAYER = re.compile(r"^(.*?)\.(\d+)\..+\.weight$")  # the first list, and the place in it


class CalibrationError(ValueError):
    """The model cannot be calibrated; says why."""


def windows_of(text: str | None, tokenizer: Any, context_length: int | None) -> list[torch.Tensor]:
    """Token ids [1, tokens] from all over the text; without one from the language reference that
    every Python has. Raises CalibrationError where there is too little."""
    if tokenizer is None:
        raise CalibrationError("gptq needs a tokenizer, and there is none")
    if text is None:
        text = "\n\n".join(topics[name] for name in sorted(topics))
    size = min(_WINDOW_TOKENS, context_length or _WINDOW_TOKENS)
    piece = size * _TOKEN_CHARACTERS
    if len(text) > _WINDOWS * piece:
        # Not its beginning: the same number of windows from all over it had 6 % less divergence.
        starts = [at * (len(text) - piece) // (_WINDOWS - 1) for at in range(_WINDOWS)]
        return [
            torch.tensor([ids])
            for ids in (_encode(tokenizer, text[at : at + piece])[:size] for at in starts)
            if ids
        ]
    ids = _encode(tokenizer, text)
    if len(ids) < _MIN_TOKENS:
        raise CalibrationError(f"the text has {len(ids)} tokens, gptq needs {_MIN_TOKENS}")
    begins = range(0, min(len(ids), _WINDOWS * size) - size + 1, size)
    return [torch.tensor([ids[begin : begin + size]]) for begin in begins]


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids


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

    Holds the windows' hidden states and one layer's Hessians. *model* gets the rounded weights,
    from files in *directory* that nobody sees: all of them would be as much memory as the model.
    """

    def __init__(self, model: nn.Module, windows: list[torch.Tensor], directory: Path) -> None:
        self._model = model
        self._windows = windows
        self._directory = directory
        self._nearest = NearestRounding()
        self._stack: str | None = None  # the list of layers that it is in
        self._at = 0  # the present layer's place there
        self._inputs: list[_Inputs] = []
        self._hessians: dict[str, torch.Tensor] = {}  # of the present layer, by weight

    def matrix(self, name: str, weight: torch.Tensor, scheme: Scheme) -> Matrix:
        """As Rounding.matrix(). Raises ValueError, naming *name*; DiskFullError."""
        check_weight(name, weight)
        match = _LAYER.match(name)
        if match is None:
            made = self._nearest.matrix(name, weight, scheme)
        else:
            self._reach(match.group(1), int(match.group(2)))
            if name in self._hessians:  # it is large, asked for once, and gone with that call
                made = gptq(weight, self._hessians.pop(name), scheme)
            else:  # an expert that no token chose
                made = self._nearest.matrix(name, weight, scheme)
        parameter = self._model.get_parameter(name)
        rounded = made.dequantize(parameter.dtype)
        ((_, parameter.data),) = in_scratch([(name, rounded)], self._directory)
        return made

    def _reach(self, stack: str, at: int) -> None:
        """Make this layer the present one: its inputs, and the Hessians of its weights."""
        if (stack, at) == (self._stack, self._at):
            return
        self._hessians = {}  # never those of two layers
        if stack == self._stack and at < self._at:
            return  # its inputs are gone: to the nearest
        layers = list(self._model.get_submodule(stack).children())
        with torch.no_grad():  # what inference_mode() makes could not be written in outside of it
            if stack != self._stack:
                self._inputs = [_capture(self._model, layers[at:], ids) for ids in self._windows]
                self._at = at
            for inputs in self._inputs:
                for passed in layers[self._at : at]:  # their weights are the rounded ones by now
                    inputs.hidden = _run(passed, inputs)
            self._stack, self._at = stack, at
            with _summing(f"{stack}.{at}", layers[at]) as self._hessians:
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


@contextmanager
def _summing(prefix: str, layer: nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Sums of x xᵀ of each linear layer inside, by the name of its weight, while it runs."""
    sums: dict[str, torch.Tensor] = {}

    def summing(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def add(_module: nn.Module, args: tuple[Any, ...]) -> None:
            x = args[0].reshape(-1, args[0].shape[-1]).float()
            if name not in sums:
                sums[name] = torch.zeros(x.shape[1], x.shape[1])
            sums[name].addmm_(x.t(), x)

        return add

    hooks = [
        module.register_forward_pre_hook(summing(f"{prefix}.{name}.weight"))
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear)
    ]
    try:
        yield sums
    finally:
        for hook in hooks:
            hook.remove()
