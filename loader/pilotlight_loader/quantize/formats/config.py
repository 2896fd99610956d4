"""The quantization config of a checkpoint: where it stands, and checked values from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pilotlight_loader.errors import QuantizedFormatError
from pilotlight_loader.strict_json import StrictJsonError, parse_object

MAX_CONFIG_BYTES = 8 * 1024 * 1024  # ignore lists of mixtures have some 100,000 names
# Older files of AutoGPTQ and AutoAWQ beside a config.json that says nothing.
_SIDE_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_KEYS = ("quantization_config", "compression_config")


def read_config(directory: Path) -> Mapping[str, object] | None:
    """The quantization config in *directory*; None where its weights are what they seem.

    Raises QuantizedFormatError for a file that cannot be read, or is no JSON object.
    """
    found = in_config(_read(directory / "config.json"), str(directory / "config.json"))
    if found is not None:
        return found
    for name, method in _SIDE_FILES.items():
        if (directory / name).is_file():
            return {"quant_method": method, **_read(directory / name)}
    return None


def in_config(config: Mapping[str, object], location: str) -> Mapping[str, object] | None:
    """The quantization config in the content of a config.json, or None."""
    text = config.get("text_config")
    for holder in (config, text if isinstance(text, dict) else {}):
        for key in _KEYS:
            if holder.get(key) is not None:
                return Config(holder, location).mapping(key)
    return None


def without_config(config: Mapping[str, object]) -> dict[str, object]:
    """The content of a config.json of which the weights are plain."""
    plain = {key: value for key, value in config.items() if key not in _KEYS}
    if isinstance(text := plain.get("text_config"), dict):
        plain["text_config"] = without_config(text)
    return plain


def _read(path: Path) -> dict[str, object]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise QuantizedFormatError(path, f"has more than {MAX_CONFIG_BYTES} bytes")
        return parse_object(path.read_bytes().strip())
    except OSError as error:
        raise QuantizedFormatError(path, f"cannot be read: {error.strerror}") from error
    except StrictJsonError as error:
        raise QuantizedFormatError(path, f"{error}") from error


class Config:
    """Checked access. Every getter raises QuantizedFormatError for a value of another type."""

    def __init__(self, values: Mapping[str, object], location: str, where: str = "") -> None:
        self.values = values
        self.location = location
        self._where = where  # the keys that lead here, each with a dot

    def problem(self, key: str, reason: str) -> QuantizedFormatError:
        """The error to raise about *key*."""
        return QuantizedFormatError(self.location, f"quantization: {self._where}{key} {reason}")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default)
        if type(value) is not int:
            raise self.problem(key, f"is {_short(value)}, must be a whole number")
        return value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if type(value) is not bool:
            raise self.problem(key, f"is {_short(value)}, must be true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.problem(key, f"is {_short(value)}, must be a string")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.values.get(key)
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.problem(key, f"is {_short(value)}, must be a list of strings")
        return tuple(value)

    def mapping(self, key: str) -> dict[str, object]:
        value = self.values.get(key)
        if not isinstance(value, dict):
            raise self.problem(key, f"is {_short(value)}, must be an object")
        return value

    def inner(self, key: str) -> Config:
        """The object under *key*, to ask further."""
        return Config(self.mapping(key), self.location, f"{self._where}{key}.")

    def one_of(self, key: str, allowed: tuple[object, ...], default: object = None) -> object:
        """Its value, or *default* where there is none, if that is among *allowed*."""
        value = self.values.get(key)
        value = default if value is None else value
        if not any(value == item and type(value) is type(item) for item in allowed):
            shown = ", ".join(map(str, allowed))
            raise self.problem(key, f"is {_short(value)}, supported: {shown}")
        return value


def _short(value: object) -> str:
    return repr(value)[:64]
