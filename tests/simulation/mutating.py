"""Puts a known bug into relayd, and takes it out again.

A bug is told by what to replace in the source of a module.  The other source is compiled, and the code of each function
that differs is put into the function that is there, so that it counts wherever that was imported to; a constant that
differs, SQL for the most part, takes the other's place wherever that was imported to.  A piece that is
not in the source exactly once is an error: the source has changed, and the mutation has to follow.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from types import CodeType, FunctionType, ModuleType
from typing import Any

from tests.simulation.scenario import Scenario


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """A piece of a module's source, and what stands there instead."""

    module: str  # under relayd
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutation:
    """A known bug.

    Where chance alone would take long to provoke it, scenarios are changed before: the fields of all `tempers`, of the
    `rules`, and of the scenario itself (`world`); `quiet`: nothing happens to the daemon; `sqlite`: with the real
    queue.
    """

    name: str
    edits: tuple[Edit, ...]
    tempers: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Any] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    quiet: bool = False
    sqlite: bool = False

    def provoked(self, scenario: Scenario) -> Scenario:
        """Return a scenario as this bug wants it."""
        sites = tuple(
            tuple(replace(host, temper=replace(host.temper, **self.tempers)) for host in site)
            for site in scenario.sites
        )
        scenario = replace(scenario, sites=sites, rules=replace(scenario.rules, **self.rules), **self.world)
        return replace(scenario, strikes=(), kills=(), queue_faults=0.0, slow_disk=0.0) if self.quiet else scenario


class Stale(Exception):
    """The source is not as the mutation knows it."""


@contextmanager
def mutated(mutation: Mutation) -> Iterator[None]:
    """Have the bug while the context lasts."""
    with ExitStack() as undo:
        for edit in mutation.edits:
            module = importlib.import_module(f"relayd.{edit.module}")
            source = inspect.getsource(module)
            if source.count(edit.before) != 1:
                raise Stale(f"relayd.{edit.module} has {source.count(edit.before)} times: {edit.before}")
            file = inspect.getsourcefile(module) or ""
            other = compile(source.replace(edit.before, edit.after), file, "exec")
            functions = list(_functions(module, compile(source, file, "exec"), other))
            constants = list(_constants(module, other))
            if not (functions or constants):
                raise Stale(f"{mutation.name}: {edit.module} has no function and no constant that differs")
            for function, code in functions:
                undo.callback(setattr, function, "__code__", function.__code__)
                function.__code__ = code
            for where, name, value in constants:
                undo.callback(setattr, where, name, getattr(where, name))
                setattr(where, name, value)
        yield


def _constants(module: ModuleType, other: CodeType) -> Iterator[tuple[ModuleType | FunctionType, str, Any]]:
    """Yield where a constant is that differs, by the name of the attribute, and the other value: in modules it was
    imported to, and in defaults of their functions."""
    values: dict[str, Any] = {"__name__": module.__name__, "__builtins__": __builtins__}
    exec(other, values)  # noqa: S102 - our own source, but for the mistake
    for name, value in values.items():
        now = getattr(module, name, value)
        if not isinstance(value, str | tuple) or now == value:
            continue
        for there in [each for key, each in sys.modules.items() if key.startswith("relayd.")]:
            if vars(there).get(name) is not now:
                continue
            yield there, name, value
            for each in vars(there).values():
                if isinstance(each, FunctionType) and any(default is now for default in each.__defaults__ or ()):
                    defaults = tuple(value if default is now else default for default in each.__defaults__ or ())
                    yield each, "__defaults__", defaults


def _functions(module: ModuleType, source: CodeType, other: CodeType) -> Iterator[tuple[FunctionType, CodeType]]:
    """Yield each function that differs, and its other code."""
    before, after = _codes(source), _codes(other)
    if before.keys() != after.keys():
        raise Stale(f"{module.__name__}: a mutation adds no function, and takes none away")
    for name in before:
        if _essence(before[name]) != _essence(after[name]):
            yield _function(module, name), after[name]


def _codes(code: CodeType) -> dict[str, CodeType]:
    """Return the code of functions and methods, by their qualified names; what is inside them goes with them."""
    found: dict[str, CodeType] = {}
    for each in code.co_consts:
        if isinstance(each, CodeType) and each.co_name.startswith("<"):
            continue  # of a constant
        if isinstance(each, CodeType) and each.co_flags & inspect.CO_OPTIMIZED:
            found[each.co_qualname] = each
        elif isinstance(each, CodeType):  # of a class
            found.update(_codes(each))
    return found


def _essence(code: CodeType) -> tuple[Any, ...]:
    """What a function does, wherever it stands."""
    constants = tuple(_essence(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts)
    return code.co_code, constants, code.co_names, code.co_varnames, code.co_freevars


def _function(module: ModuleType, name: str) -> FunctionType:
    found: Any = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
        if isinstance(found, property):
            found = found.fget
        elif isinstance(found, classmethod | staticmethod):
            found = found.__func__
        found = inspect.unwrap(found) if callable(found) else found
    if not isinstance(found, FunctionType):
        raise Stale(f"{module.__name__}.{name} is no function")
    return found
