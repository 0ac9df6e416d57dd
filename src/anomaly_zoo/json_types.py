"""Whether nested values are what a field's annotation says, and what JSON can hold; quick on a million images."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import itemgetter
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints, is_typeddict


def unwritable(value: Any, name: str = "") -> Iterator[str]:
    """Says of everything inside `value` that JSON cannot hold where it is and what it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from unwritable(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from unwritable(item, f"{name}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"{name} is {float(value)}, which is not finite"
    elif not isinstance(value, (str, int, float, type(None))):
        yield f"{name} is a {type(value).__name__}, which JSON cannot hold"


def _column_checker(kind: Any) -> Callable[[Sequence[Any]], bool]:
    """What `checker` says of several of the scalars `kind`; thousands of results hold a hundred images each."""
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return lambda values: (
            all(issubclass(found, numbers) and found is not bool for found in set(map(type, values)))
            and all(map(math.inf.__gt__, map(abs, values)))  # neither infinite nor NaN
        )
    return lambda values: all(issubclass(found, kind) for found in set(map(type, values)))


def _table_checker(kind: Any) -> Callable[[Any], bool]:
    """What `checker` says of a list of the flat typed dictionary `kind`."""
    names, kinds = zip(*get_type_hints(kind).items(), strict=True)
    columns, values = [_column_checker(part) for part in kinds], itemgetter(*names)

    def check(rows: Any) -> bool:
        if not isinstance(rows, list) or not all(issubclass(found, dict) for found in set(map(type, rows))):
            return False
        try:
            return all(ok(column) for ok, column in zip(columns, zip(*map(values, rows), strict=True), strict=False))
        except KeyError:
            return False

    return check


@cache
def checker(kind: Any) -> Callable[[Any], bool]:
    """A function that says whether a value read from JSON has the annotated type `kind`, with finite numbers only."""
    if kind in (int, float):
        numbers = (int, float) if kind is float else int
        return lambda value: isinstance(value, numbers) and not isinstance(value, bool) and abs(value) < math.inf
    if is_typeddict(kind):
        parts = [(name, checker(part)) for name, part in get_type_hints(kind).items()]
        return lambda value: isinstance(value, dict) and all(name in value and ok(value[name]) for name, ok in parts)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is None:
        return lambda value: kind is Any or isinstance(value, kind)
    if origin is Literal:
        return lambda value: value in arguments
    if origin is list and is_typeddict(arguments[0]):
        return _table_checker(arguments[0])
    inner = [checker(argument) for argument in arguments]
    if origin is UnionType:
        return lambda value: any(ok(value) for ok in inner)
    contents = dict.values if origin is dict else list.__iter__  # the keys are strings, JSON has no others
    return lambda value: isinstance(value, origin) and all(map(inner[-1], contents(value)))
