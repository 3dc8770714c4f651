"""A job function's parameters as command-line options: which there are and how text becomes their values. Pure."""

from __future__ import annotations

import enum
import inspect
import re
import types
import typing
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from msgspec import Struct

from mr.errors import PlanError

ENGINE_OPTIONS = frozenset(
    {
        "on",
        "address",
        "workers",
        "memory",
        "no_reuse",
        "reuse",
        "overwrite",
        "append",
        "json",
        "help",
        "quiet",
        "verbose",
    }
)
REQUIRED = inspect.Parameter.empty
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class Parameter(Struct, frozen=True):
    """One parameter of a job function.

    `convert` turns one text into one value; `many` takes repeats (a list), `pairs` takes k=v (a dict), `flag` takes no
    value. `choices` are shown in the help. `default` is REQUIRED where there is none.
    """

    name: str
    convert: Callable[[str], Any]
    default: Any
    type_name: str
    many: bool = False
    pairs: bool = False
    flag: bool = False
    choices: tuple[str, ...] = ()

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def option(self) -> str:
        """The option's name on the command line."""
        return "--" + self.name.replace("_", "-")


def parameters_of(fn: Callable[..., Any]) -> tuple[Parameter, ...]:
    """The parameters of a job function, in order.

    Raises PlanError for *args, **kwargs, a type that has no text form, or a name that the engine uses itself.

    >>> def job(input: list[str], *, n: int = 3): ...
    >>> [(p.option, p.many, p.required) for p in parameters_of(job)]
    [('--input', True, True), ('--n', False, False)]
    """
    try:
        hints = typing.get_type_hints(fn)
    except NameError as error:
        raise PlanError(f"job {fn.__name__}: an annotation cannot be resolved: {error}") from None
    found = []
    for parameter in inspect.signature(fn).parameters.values():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise PlanError(f"job {fn.__name__}: *{parameter.name} cannot be an option; declare list[str]")
        if parameter.name in ENGINE_OPTIONS:
            option = parameter.name.replace("_", "-")
            raise PlanError(
                f"job {fn.__name__}: parameter {parameter.name!r} would hide the option --{option}; rename it"
            )
        found.append(_parameter(fn.__name__, parameter, hints.get(parameter.name)))
    return tuple(found)


def _parameter(job: str, parameter: inspect.Parameter, hint: Any) -> Parameter:
    default = parameter.default
    if hint is None:
        hint = str if default is REQUIRED or default is None else type(default)
    hint = _without_none(hint)
    if hint is bool:
        return Parameter(parameter.name, parse_bool, default, "flag", flag=True)
    origin, args = get_origin(hint), get_args(hint)
    try:
        if hint is list or origin is list:
            convert, name, choices = _scalar(args[0] if args else str)
            return Parameter(parameter.name, convert, default, name, many=True, choices=choices)
        if hint is dict or origin is dict:
            convert, name, _ = _scalar(args[1] if args else str)
            return Parameter(parameter.name, convert, default, f"k={name}", pairs=True)
        convert, name, choices = _scalar(hint)
        return Parameter(parameter.name, convert, default, name, choices=choices)
    except TypeError:
        raise PlanError(f"job {job}: parameter {parameter.name!r} has type {hint}, which has no text form") from None


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in (Union, types.UnionType):
        left = [arg for arg in get_args(hint) if arg is not type(None)]
        return left[0] if len(left) == 1 else hint
    return hint


def _scalar(hint: Any) -> tuple[Callable[[str], Any], str, tuple[str, ...]]:
    """How one text becomes a value of type `hint`, the type's name, and the choices. Raises TypeError."""
    if get_origin(hint) is Literal:
        values = {str(value): value for value in get_args(hint)}
        return values.__getitem__, "choice", tuple(values)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return hint.__getitem__, "choice", tuple(hint.__members__)
    known: dict[Any, Callable[[str], Any]] = {
        str: str,
        Any: str,
        int: int,
        float: float,
        bool: parse_bool,
        Path: Path,
        date: date.fromisoformat,
        datetime: datetime.fromisoformat,
        timedelta: parse_timedelta,
    }
    if hint not in known:
        raise TypeError(hint)
    return known[hint], getattr(hint, "__name__", "text").lower(), ()


def text_of(value: Any) -> str:
    """A default as it would be written on the command line.

    >>> text_of(timedelta(minutes=1)), text_of(["a", "b"]), text_of(3)
    ('60s', 'a b', '3')
    """
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    if isinstance(value, enum.Enum):
        return value.name
    return " ".join(map(text_of, value)) if isinstance(value, (list, tuple)) else str(value)


def parse_bool(text: str) -> bool:
    """A truth value from yes/no, true/false, 1/0. Raises ValueError.

    >>> parse_bool("yes")
    True
    """
    known = {"yes": True, "true": True, "1": True, "on": True, "no": False, "false": False, "0": False, "off": False}
    if text.lower() not in known:
        raise ValueError(f"{text!r} is not yes or no")
    return known[text.lower()]


def parse_timedelta(text: str) -> timedelta:
    """A duration from "30m", "1.5h", "1d12h"; units ms s m h d w. Raises ValueError.

    >>> parse_timedelta("1h30m").total_seconds()
    5400.0
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smhdw])", text)
    if not parts or "".join(n + u for n, u in parts) != text:
        raise ValueError(f"{text!r} is not a duration; write 90s, 30m, 1.5h or 1d12h")
    return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))


def parse_bytes(text: str | int) -> int:
    """A number of bytes from "512MB", "1GiB" or a plain number. Raises PlanError.

    >>> parse_bytes("1GB"), parse_bytes("64MiB"), parse_bytes(100)
    (1000000000, 67108864, 100)
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?\s*", str(text), re.IGNORECASE)
    if match is None:
        raise PlanError(f"{text!r} is not a size; write 512MB, 2GiB or a number of bytes")
    number, prefix, binary = match.groups()
    power = " KMGT".index(prefix.upper() or " ")
    return int(float(number) * (1024 if binary else 1000) ** power)
