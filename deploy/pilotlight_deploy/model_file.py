"""Model files: YAML to ``ModelSpec``, with every problem named by its place and its remedy."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pilotlight_deploy.errors import CliError
from pilotlight_deploy.exit_codes import ExitCode
from pilotlight_deploy.unknown_keys import unknown_key
from pilotlight_platform.schemas.model import ModelSpec

MAX_FILE_BYTES = 64 << 10
_MAX_SHOWN = 60  # characters of a wrong value

_Path = tuple[str | int, ...]
_Model = TypeVar("_Model", bound=BaseModel)


class ModelFileError(CliError):
    """The model file cannot be used; one line per problem."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems), ExitCode.BAD_INPUT)
        self.problems = problems


def read_model_spec(
    file: Path | None = None,
    *,
    source: str | None = None,
    name: str | None = None,
    **fields: object,
) -> ModelSpec:
    """The model to deploy: what *file* says, with the others in place of its own.

    A relative source in the file is meant from the file's folder, *source* from the working
    directory. Without a file and a name, the model is named after its directory.

    Raises ModelFileError.
    """
    values, lines = ({}, {}) if file is None else read_mapping(file)
    if file is not None and isinstance(values.get("source"), str):
        values["source"] = _located(values["source"], file.absolute().parent)
    if file is not None and isinstance(values.get("quantization_text"), str):
        folder = file.absolute().parent
        values["quantization_text"] = _located(values["quantization_text"], folder)
    if source is not None:
        values["source"] = _located(source, Path.cwd())
    if name is not None:
        values["name"] = name
    elif file is None and source is not None:
        values["name"] = _name_of(Path(values["source"]))
    values |= fields
    return validated(ModelSpec, values, file, lines)


def read_target(target: Path | None, *, file: Path | None, name: str | None) -> ModelSpec:
    """The model that `pilotlight deploy` was pointed at: a checkpoint directory or a model file.

    Raises ModelFileError.
    """
    if file is None and target is not None and target.is_file():
        return read_model_spec(target, name=name)
    if file is None and target is None:
        raise CliError(
            "name a checkpoint directory or a model file: pilotlight deploy PATH", ExitCode.USAGE
        )
    return read_model_spec(file, source=None if target is None else str(target), name=name)


def validated(
    kind: type[_Model], values: dict[str, Any], file: Path | None, lines: dict[_Path, int]
) -> _Model:
    """*values* as a *kind* of file. Raises ModelFileError with a line per problem."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        label = "" if file is None else str(file)
        problems = error.errors(include_url=False)
        raise ModelFileError([_problem(kind, label, lines, each) for each in problems]) from error


def schema() -> dict[str, Any]:
    """JSON schema of the model file, for editors."""
    return ModelSpec.model_json_schema()


def _located(source: str, folder: Path) -> str:
    if "://" in source:
        return source  # the platform says which kinds it supports
    return str((folder / Path(source).expanduser()).resolve())


def _name_of(directory: Path) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", directory.name.lower()).strip("-._")[:63]


class _Loader(yaml.SafeLoader):
    """Without aliases: a model file needs none, and nested ones grow without bound."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]  # the stubs forgot it
            raise yaml.MarkedYAMLError(
                problem="aliases (*name) are not supported", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def read_mapping(file: Path) -> tuple[dict[str, Any], dict[_Path, int]]:
    """The file's values, and the line of each key. Raises ModelFileError."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ModelFileError([f"{file}: {error.strerror}"]) from error
    if len(data) > MAX_FILE_BYTES:
        raise ModelFileError([f"{file}: is above {MAX_FILE_BYTES >> 10} KiB: no model file is"])
    try:
        return _parse(file, data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ModelFileError([f"{file}: is not UTF-8 text"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ModelFileError([f"{file}{place}: {error.problem or error.context}"]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: YAML's own idea of a date or a number, such as 2024-13-01
        text = " ".join(str(error).split())
        raise ModelFileError([f"{file}: is not YAML: {text}"]) from error


def _parse(file: Path, text: str) -> tuple[dict[str, Any], dict[_Path, int]]:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            raise ModelFileError([f"{file}: must be a mapping of keys to values, such as name: x"])
        lines = dict(_key_lines(file, node))
        values = cast(dict[str, Any], loader.construct_document(node))
    finally:
        loader.dispose()
    strange = [key for key in values if not isinstance(key, str)]
    if strange:
        raise ModelFileError([f"{file}: {key!r}: keys must be text" for key in strange])
    return values, lines


def _key_lines(file: Path, node: yaml.MappingNode, at: _Path = ()) -> Iterator[tuple[_Path, int]]:
    """Raises ModelFileError for a key that stands twice: YAML would keep the last in silence."""
    seen: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            continue  # refused when the values are built
        line = key.start_mark.line + 1
        if key.value in seen:
            dotted = ".".join(map(str, (*at, key.value)))
            first = seen[key.value]
            raise ModelFileError([f"{file}:{line}: {dotted}: stands in line {first} already"])
        seen[key.value] = line
        yield (*at, key.value), line
        if isinstance(value, yaml.MappingNode):
            yield from _key_lines(file, value, (*at, key.value))
        elif isinstance(value, yaml.SequenceNode):
            for n, item in enumerate(value.value):
                if isinstance(item, yaml.MappingNode):
                    yield from _key_lines(file, item, (*at, key.value, n))


def _problem(
    kind: type[BaseModel], label: str, lines: dict[_Path, int], details: ErrorDetails
) -> str:
    path: _Path = details["loc"]
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    place = label if line is None or not label else f"{label}:{line}"
    dotted = ".".join(str(part) for part in path)
    return ": ".join(part for part in (place, dotted, _what(kind, path, details)) if part)


def _what(model: type[BaseModel], path: _Path, details: ErrorDetails) -> str:
    kind, given = details["type"], details["input"]
    if kind == "extra_forbidden":
        return unknown_key(model, path)
    if kind == "missing":
        return "is missing"
    if kind == "string_type":
        return f"must be text: put it in quotes (got {_shown(given)})"
    if kind == "string_pattern_mismatch":
        return (
            "must be 1 to 63 lower case letters, digits, '.', '_' or '-', the first a letter "
            f"or digit (got {_shown(given)})"
        )
    if kind == "model_type":
        return f"must be a mapping of keys to values (got {_shown(given)})"
    what = details["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if kind == "value_error":
        return what  # our own words, the value among them
    return f"{what} (got {_shown(given)})"


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
