"""Settings: frozen dataclasses, read strictly from TOML recipes and JSON files."""

import dataclasses
import difflib
import json
import math
import os
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
_MOST_BASES = 20


def from_dict(cls: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `cls` from plain data: nested dataclasses, tables, tuples, literals.

    `where` is the dotted path of `data`, used in messages. If `cls` is a union of dataclasses, the
    literal `kind` in the data chooses one; without it, the first is used. Raises ValueError for
    unknown keys, missing keys, wrong types, and for values that the dataclass rejects.
    """
    if not isinstance(data, Mapping):
        name = where or getattr(cls, "__name__", "settings")
        raise ValueError(f"{name}: expected a table, got {data!r}")
    cls = _union_member(cls, data, where)
    hints = _hints(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            raise ValueError(f"{_join(where, key)}: unknown setting{closest(key, fields)}")
    values = {key: _convert(hints[key], value, _join(where, key)) for key, value in data.items()}
    missing = [name for name, field in fields.items() if name not in data and _required(field)]
    if missing:
        raise ValueError(f"{_join(where, missing[0])}: this setting is required")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{where}: {error}" if where else str(error)) from None


def check_at_least(settings: Any, least: float, *names: str) -> None:
    """Raise ValueError if one of these settings is below `least`."""
    for name in names:
        if not getattr(settings, name) >= least:  # NaN fails too
            raise ValueError(f"{name}: got {getattr(settings, name)}; allowed: {least} or more")


def check_range(settings: Any, least: float, most: float, *names: str) -> None:
    """Raise ValueError if one of these settings is not between `least` and `most`."""
    for name in names:
        if not least <= getattr(settings, name) <= most:
            got = getattr(settings, name)
            raise ValueError(f"{name}: got {got}; allowed: {least} to {most}")


def to_dict(settings: Any) -> dict[str, Any]:
    """The inverse of `from_dict`: plain dicts, lists, numbers and strings, ready for JSON."""
    plain: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(settings)))
    return plain


def given(settings: Any) -> Iterator[tuple[str, Any]]:
    """Yield the names and values of the settings that differ from their defaults."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if value != field.default:
            yield field.name, value


def differences(there: Any, here: Any, where: str) -> list[str]:
    """The settings that differ between two dataclasses, or tables of their fields, each as "NAME is
    A there, B here".

    NAME is a dotted path that begins with `where`. The order is that of the fields.
    """
    one, other = (to_dict(s) if dataclasses.is_dataclass(s) else s for s in (there, here))
    return _differences(one, other, where)


def _differences(there: Any, here: Any, where: str) -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = ((key, there.get(key), here.get(key)) for key in there | here)
        return [line for key, a, b in pairs for line in _differences(a, b, _join(where, key))]
    return [] if there == here else [f"{where} is {there} there, {here} here"]


def read_toml(
    path: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    *,
    paths: Sequence[str] = (),
    shipped: Path | None = None,
) -> dict[str, Any]:
    """Read a TOML file over the file that its `base` names, and apply `key.path=value` overrides.

    `base` is relative to the file that names it, or otherwise in the folder `shipped`, so an
    ablation is a short delta over a base recipe. The settings `paths` ("section.name") are relative
    to the file that they stand in, too; those of overrides to the working folder. Raises ValueError
    for a missing or malformed file and for a malformed override.
    """
    data = _read_with_base(Path(path), paths, shipped, ())
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ValueError(f"override {override!r}: expected section.name=value")
        _set(data, key.strip().split("."), _parse_value(text.strip()), override)
    return data


def _read_with_base(
    path: Path, paths: Sequence[str], shipped: Path | None, seen: tuple[Path, ...]
) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ValueError(f"{path}: its chain of bases is circular")
    if len(seen) > _MOST_BASES:
        raise ValueError(f"{path}: more than {_MOST_BASES} recipes name each other as base")
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        above = f" (the base of {seen[-1]})" if seen else ""
        raise ValueError(f"{path}: {error.strerror}{above}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not TOML: {error}") from None
    for setting in paths:
        section, _, name = setting.partition(".")
        table = data.get(section)
        if isinstance(table, dict) and name in table:
            table[name] = beside(path, table[name])
    base = data.pop("base", None)
    if base is None:
        return data
    if not isinstance(base, str) or not base or "\0" in base:
        raise ValueError(f"{path}: base: got {base!r}; allowed: the name of a recipe")
    file = path.parent / base
    if shipped is not None and not file.is_file():
        file = next((f for f in _named(base, shipped) if f.is_file()), file)
    return merge(_read_with_base(file, paths, shipped, (*seen, path.resolve())), data)


def _named(name: str, folder: Path) -> tuple[Path, Path]:
    """The files of a folder that a name may mean, with and without its ending."""
    return folder / name, folder / f"{name}.toml"


def beside(file: Path, value: Any) -> Any:
    """A path, or a list of them, that stands in `file`, as seen from the working folder.

    One that does not exist beside `file` stays as it is: it may be relative to the working folder,
    or no path at all, such as a name on the hub.
    """
    if isinstance(value, list):
        return [beside(file, one) for one in value]
    if not isinstance(value, str) or not value or not (file.parent / value).exists():
        return value
    return str(file.parent / value)


def merge(base: dict[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Merge `delta` into a copy of `base`, table by table."""
    merged = dict(base)
    for key, value in delta.items():
        before = merged.get(key)
        if isinstance(value, Mapping) and isinstance(before, dict):
            # a table of another kind has other settings, so it replaces the whole table
            kinds = (None, before.get("kind"))
            merged[key] = merge(before, value) if value.get("kind") in kinds else value
        else:
            merged[key] = value
    return merged


def _set(data: dict[str, Any], path: list[str], value: Any, override: str) -> None:
    for key in path[:-1]:
        data = data.setdefault(key, {})
        if not isinstance(data, dict):
            raise ValueError(f"override {override!r}: {key} is a value, not a section")
    data[path[-1]] = value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text  # a bare word is a string, so that no quotes are needed in a shell


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        if all(map(dataclasses.is_dataclass, arguments)):
            return from_dict(hint, value, where)
        inner = [argument for argument in arguments if argument is not type(None)]
        if len(inner) == 1:
            return _convert(inner[0], value, where)
        if isinstance(value, hint):
            return value
        raise ValueError(f"{where}: expected {hint}, got {value!r}")
    if origin is Literal:
        if value in arguments and type(value) in {type(argument) for argument in arguments}:
            return value
        raise ValueError(f"{where}: got {value!r}; allowed: {', '.join(map(str, arguments))}")
    if hint is Any:
        return value
    if origin is tuple:
        return _convert_tuple(arguments, value, where)
    if origin is Mapping:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: expected a table, got {value!r}")
        return {key: _convert(arguments[1], item, _join(where, key)) for key, item in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    return _convert_scalar(hint, value, where)


def _convert_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"{where}: expected a list, got {value!r}")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise ValueError(f"{where}: expected {len(arguments)} values, got {len(value)}")
    return tuple(
        _convert(hint, item, f"{where}[{i}]")
        for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    is_huge = isinstance(value, int) and not -(10**300) < value < 10**300  # no float
    if (
        hint is float
        and isinstance(value, int | float)
        and not (isinstance(value, bool) or is_huge)
    ):
        if not math.isfinite(value):
            raise ValueError(f"{where}: got {value!r}; expected a finite number")
        return float(value)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError(f"{where}: got a number of {len(str(abs(value)))} digits; too large")
    # bool is an int in Python, but true must not be accepted as 1
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise ValueError(f"{where}: expected {hint.__name__}, got {value!r}")


def _union_member(cls: Any, data: Mapping[str, Any], where: str) -> Any:
    """The member of a union that `kind` in `data` chooses; other classes are returned as is."""
    if not isinstance(cls, types.UnionType):
        return cls
    members = typing.get_args(cls)
    hints = {member: _hints(member)["kind"] for member in members}
    kinds = {typing.get_args(hint)[0]: member for member, hint in hints.items()}
    kind = data.get("kind", next(iter(kinds)))
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"{_join(where, 'kind')}: got {kind!r}; allowed: {', '.join(kinds)}")
    return kinds[kind]


@cache
def _hints(cls: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; evaluating their names is slow."""
    return typing.get_type_hints(cls)


def _required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def closest(key: str, allowed: Iterable[str]) -> str:
    """The end of a message about an unknown name: the name that was meant, or those allowed."""
    allowed = list(allowed)
    close = difflib.get_close_matches(key, allowed, n=1)
    return f"; did you mean {close[0]}?" if close else f"; allowed: {', '.join(allowed)}"
