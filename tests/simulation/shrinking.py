"""From a scenario that fails to the smallest that still fails in the same way, part by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields, is_dataclass, replace
from typing import Any

from tests.simulation.scenario import Rules, Scenario
from tests.simulation.temper import Temper

MOST_RUNS = 600


def complaint(broken: tuple[str, ...]) -> str:
    """Return what the first breach says, without what differs from run to run."""
    return re.sub(r"\S*[\d@]\S*|\[.*|\(.*", "_", broken[0]) if broken else ""


def shrink(scenario: Scenario, fails: Callable[[Scenario], bool], *, most_runs: int = MOST_RUNS) -> Scenario:
    """Return a scenario that `fails` as `scenario` does, of which no part can be left out, as far as `most_runs` go."""
    runs, smaller = 0, True
    while smaller:
        smaller = False
        for candidate in _candidates(scenario):
            if runs >= most_runs:
                return scenario
            runs += 1
            if fails(candidate):
                scenario, smaller = candidate, True
                break
    return scenario


def _candidates(scenario: Scenario) -> Iterator[Scenario]:
    """Yield scenarios with a part left out, the largest parts first."""
    yield from _without(scenario, "drops")
    yield from _without(scenario, "kills")
    yield from _without(scenario, "strikes")
    if scenario.queue_faults:
        yield replace(scenario, queue_faults=0.0)
    if scenario.dns_faults:
        yield replace(scenario, dns_faults=0.0)
    if scenario.slow_disk:
        yield replace(scenario, slow_disk=0.0)
    yield from _with_simpler_sites(scenario)
    yield from _with_simpler_drops(scenario)
    for name, usual in _defaults(Rules):
        if getattr(scenario.rules, name) != usual:
            yield replace(scenario, rules=replace(scenario.rules, **{name: usual}))


def _without(scenario: Scenario, name: str) -> Iterator[Scenario]:
    """Yield it without the halves, quarters, ... of a tuple."""
    parts = getattr(scenario, name)
    size = len(parts)
    while size:
        for start in range(0, len(parts), size):
            yield replace(scenario, **{name: parts[:start] + parts[start + size :]})
        size //= 2


def _with_simpler_sites(scenario: Scenario) -> Iterator[Scenario]:
    for number, site in enumerate(scenario.sites):
        for place, host in enumerate(site):
            if len(site) > 1:
                yield _with_site(scenario, number, site[:place] + site[place + 1 :])
            for temper in _simpler(host.temper):
                simpler = replace(host, temper=temper)
                yield _with_site(scenario, number, (*site[:place], simpler, *site[place + 1 :]))


def _with_site(scenario: Scenario, number: int, site: tuple[Any, ...]) -> Scenario:
    return replace(scenario, sites=(*scenario.sites[:number], site, *scenario.sites[number + 1 :]))


def _simpler(temper: Temper) -> Iterator[Temper]:
    for name, usual in _defaults(Temper):
        if getattr(temper, name) != usual:
            yield replace(temper, **{name: usual})
    for fault in temper.faults if temper.trouble else ():
        yield replace(temper, faults=tuple(each for each in temper.faults if each != fault))


def _with_simpler_drops(scenario: Scenario) -> Iterator[Scenario]:
    for number, drop in enumerate(scenario.drops):
        for place in range(len(drop.to)):
            if len(drop.to) > 1:
                simpler = replace(drop, to=drop.to[:place] + drop.to[place + 1 :])
                yield replace(scenario, drops=(*scenario.drops[:number], simpler, *scenario.drops[number + 1 :]))


def _defaults(kind: Any) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in fields(kind) if each.default is not MISSING]


def told(value: Any) -> str:
    """Return a scenario, or a part of it, as it is written, without what is as usual."""
    if isinstance(value, tuple):
        return "(" + "".join(f"{told(each)}, " for each in value).rstrip() + ")"
    if not is_dataclass(value):
        return repr(value)
    given = ((each, getattr(value, each.name)) for each in fields(value))
    words = (f"{each.name}={told(now)}" for each, now in given if now != each.default)
    return f"{type(value).__name__}({', '.join(words)})"
