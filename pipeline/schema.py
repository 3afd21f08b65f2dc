"""Plain values from YAML -> frozen dataclasses, with errors that say what to write instead.

Every problem is a `SchemaError` that carries the dotted key, so that `pipeline.config` can add the file and the line.
"""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}


class SchemaError(Exception):
    """A value does not fit its field. `key` is dotted, from the top of the section."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' for the nearest known word, or all known words where none is near."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.55)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(names)}." if names else " Nothing can be set here."


def build(config: type, values: Mapping[str, Any], key: str = "") -> Any:
    """An instance of the dataclass `config`; raises SchemaError naming the key that is unknown, missing or wrong."""
    hints = get_type_hints(config)
    known = [field.name for field in fields(config) if field.init]
    arguments = {}
    for name, value in values.items():
        if name not in known:
            raise SchemaError(_join(key, name), f"unknown key '{name}'.{did_you_mean(str(name), known)}")
        arguments[name] = convert(hints[name], value, _join(key, name))
    for field in fields(config):
        if field.init and field.name not in values and field.default is MISSING and field.default_factory is MISSING:
            raise SchemaError(_join(key, field.name), f"'{field.name}' is missing: it has no default.")
    try:
        return config(**arguments)
    except (ValueError, TypeError) as error:
        raise SchemaError(key, str(error)) from error


def convert(hint: Any, value: Any, key: str) -> Any:
    """`value` as the type `hint`: scalars, Path, tuple, list, dict, Literal, Optional, Union, nested dataclasses."""
    origin = get_origin(hint) or hint
    if origin in (Union, types.UnionType):
        return _union(hint, value, key)
    if is_dataclass(hint) and isinstance(hint, type):
        return _nested(hint, value, key)
    if origin in (tuple, list):
        return _sequence(hint, value, key)
    if origin in (dict, Mapping):
        return _mapping(hint, value, key)
    return _scalar(hint, value, key)


def _nested(hint: type, value: Any, key: str) -> Any:
    if not isinstance(value, Mapping | None):
        raise _wrong(key, f"a section with keys of {', '.join(field.name for field in fields(hint))}", value)
    return build(hint, value or {}, key)


def _scalar(hint: Any, value: Any, key: str) -> Any:
    whole = isinstance(value, int) and not isinstance(value, bool)
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    if hint is Any or value in choices or (hint in (bool, type(None)) and type(value) is hint):
        return value
    if hint is int and (whole or (isinstance(value, float) and value.is_integer())):
        return int(value)
    if hint is float and (whole or isinstance(value, float)) and math.isfinite(value):
        return float(value)
    if hint is str and (isinstance(value, str) or whole or isinstance(value, float)):
        return str(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    raise _wrong(key, "one of " + ", ".join(map(repr, choices)) if choices else _name(hint), value)


def _union(hint: Any, value: Any, key: str) -> Any:
    members = get_args(hint)
    if type(value) in members:  # "8" stays text and 8 a number in `str | int`
        return _scalar(type(value), value, key) if type(value) in (int, float, str, bool, type(None)) else value
    for member in members:
        try:
            return convert(member, value, key)
        except SchemaError:
            continue
    raise _wrong(key, " or ".join(_name(member) for member in members), value)


def _sequence(hint: Any, value: Any, key: str) -> Any:
    members, make = get_args(hint), get_origin(hint) or hint
    if not isinstance(value, list | tuple):
        raise _wrong(key, f"a list, as in [{value}]", value)
    if not members:
        return make(value)
    if make is list or members[-1] is Ellipsis:
        return make(convert(members[0], item, f"{key}[{i}]") for i, item in enumerate(value))
    if len(members) != len(value):
        raise _wrong(key, f"a list of {len(members)} values", value)
    return tuple(
        convert(member, item, f"{key}[{i}]") for i, (member, item) in enumerate(zip(members, value, strict=True))
    )


def _mapping(hint: Any, value: Any, key: str) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(key, "a mapping, as in {name: value}", value)
    names, values = get_args(hint) or (Any, Any)
    return {convert(names, k, _join(key, k)): convert(values, v, _join(key, k)) for k, v in value.items()}


def _wrong(key: str, wanted: str, value: Any) -> SchemaError:
    shown = repr(value) if len(repr(value)) <= 80 else repr(value)[:77] + "..."
    return SchemaError(key, f"'{key.rpartition('.')[2]}' must be {wanted}; got {shown}.")


def _name(hint: Any) -> str:
    return "nothing (null)" if hint is type(None) else _WORDS.get(hint, str(hint).replace("typing.", ""))


def _join(key: str, name: Any) -> str:
    return f"{key}.{name}" if key else str(name)


def plain(config: Any) -> dict[str, Any]:
    """A dataclass as JSON and YAML can hold it: tuples become lists, paths text."""
    values: dict[str, Any] = _plain(asdict(config))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def identity_part(config: Any, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """`values` (default: those of `config`) without the fields that `config` marks `identity=False`, nested too."""
    values = plain(config) if values is None else values
    marked = {field.name: field for field in fields(config)}
    kept = {}
    for name, value in values.items():
        if name in marked and not marked[name].metadata.get("identity", True):
            continue
        inner = getattr(config, name, None)
        nested = is_dataclass(inner) and isinstance(value, Mapping)
        kept[name] = identity_part(inner, value) if nested else value
    return kept


def with_new_fields(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A config as an older Tessera wrote it, with the fields that came since as they were in effect before.

    That is their default, or what their metadata calls `before` where the default changed what is made.
    """
    required = [f.name for f in fields(kind) if f.init and f.default is MISSING and f.default_factory is MISSING]
    try:
        default = kind(**{name: values[name] for name in required})
    except (KeyError, TypeError, ValueError):  # not a config of this kind
        return dict(values)
    return _filled(_before(default), values)


def _before(config: Any) -> dict[str, Any]:
    """The default config as it was before its newest fields."""
    values = plain(config)
    for one in fields(config):
        inner = getattr(config, one.name)
        if "before" in one.metadata:
            values[one.name] = one.metadata["before"]
        elif is_dataclass(inner):
            values[one.name] = _before(inner)
    return values


def _filled(defaults: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    filled = dict(values)
    for name, default in defaults.items():
        if name not in filled:
            filled[name] = default
        elif isinstance(default, Mapping) and isinstance(filled[name], Mapping):
            filled[name] = _filled(default, filled[name])
    return filled


def differences(old: Mapping[str, Any], new: Mapping[str, Any], key: str = "") -> list[str]:
    """Lines 'key: old -> new' for every leaf that differs."""
    lines = []
    for name in [*new, *(name for name in old if name not in new)]:
        before, after = old.get(name, "(absent)"), new.get(name, "(absent)")
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, _join(key, name))
        elif before != after:
            lines.append(f"{_join(key, name)}: {before} -> {after}")
    return lines
