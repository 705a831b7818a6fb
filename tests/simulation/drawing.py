"""Draws scenarios: from a seed, everything that a run depends on.

Three sizes: many small ones with dense faults, where every step is a place to be killed at; some of a few hundred
messages; and bursts, in which faults are rare and limits matter.
"""

from __future__ import annotations

import random
from dataclasses import replace

from tests.simulation.scenario import Domain, Drop, HostPlan, Rules, Scenario, Strike, To
from tests.simulation.temper import FAULTS, Temper

OFFERS = ("PIPELINING", "SIZE 10240000", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "CHUNKING", "STARTTLS")
ODD_OFFERS = ("SIZE 0", "SIZE abc", "LIMITS RCPTMAX=2", "LIMITS MAILMAX=3", "DELIVERBY 30", "pipelining", "AUTH PLAIN")
NOTIFY = ("", "", "", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE", "FAILURE,DELAY")
SMALL, SOME, MANY = (1, 12), (30, 200), (500, 2000)  # messages


def draw(seed: int, *, messages: int | None = None) -> Scenario:
    """Return the scenario of a seed; `messages`: with so many, else by chance."""
    chance = random.Random(f"scenario/{seed}")
    if messages is None:
        messages = chance.randint(*chance.choices((SMALL, SOME, MANY), (96, 3.5, 0.5))[0])
    dense = 1.0 if messages <= SMALL[1] else 0.3 if messages <= SOME[1] else 0.05
    return _Drawing(seed, chance, messages, dense).scenario()


class _Drawing:
    """One scenario; `dense` scales how often something goes wrong."""

    def __init__(self, seed: int, chance: random.Random, messages: int, dense: float) -> None:
        self._seed = seed
        self._chance = chance
        self._messages = messages
        self._dense = dense
        self._span = chance.choice((1.0, 60.0, 900.0)) if messages <= SOME[1] else chance.uniform(5, 60)
        self._calm_at = self._span + chance.choice((10.0, 300.0, 1800.0)) * chance.random()
        self._faults = tuple(name for name in FAULTS if chance.random() < 0.4)

    def scenario(self) -> Scenario:
        chance = self._chance
        sites = tuple(self._site(number) for number in range(chance.randint(1, 5)))
        domains = self._domains(len(sites))
        sites += tuple(self._site(each.site, each.name) for each in domains if each.nature == "implicit")
        rules = self._rules()
        self._in_one_piece = rules.small_body > 100_000  # what streams would be re-encoded by a process of its own
        scenario = Scenario(
            seed=self._seed,
            rules=rules,
            sites=sites,
            domains=domains,
            drops=self._drops(domains),
            calm_at=self._calm_at,
        )
        return replace(
            scenario,
            strikes=self._strikes(),
            kills=self._kills(),
            queue_faults=self._sometimes(0.3, 0.1),
            ambiguous=chance.choice((0.0, chance.random())),
            dns_faults=self._sometimes(0.3, 0.5),
            slow_disk=chance.choice((0.0, 0.0, 0.01, 1.0)),
        )

    def _sometimes(self, often: float, most: float) -> float:
        """Return a rate up to `most`, or none."""
        return self._chance.random() ** 2 * most * self._dense if self._chance.random() < often else 0.0

    def _rules(self) -> Rules:
        chance = self._chance
        small, large = self._messages <= SMALL[1], self._messages > SOME[1]
        return Rules(
            check_interval=chance.choice((5.0, 60.0, 300.0)) if chance.random() < 0.1 else 300.0,
            max_connections=chance.choice((10, 20, 50) if large else (1, 2, 4, 10, 20) if small else (2, 4, 10, 20)),
            per_site=chance.choice((5, 20) if large else (1, 2, 5, 20)),
            initial=chance.choice((1, 2, 5)),
            per_connection=chance.choice((20, 50, 100) if large else (1, 2, 5, 20, 100) if small else (3, 5, 20, 100)),
            message_rate=chance.choice(("",) if large else ("", "", "", "3/1m" if small else "", "20/1m", "600/1m")),
            connection_rate=chance.choice(("",) if large else ("", "", "", "3/1m" if small else "", "20/1m")),
            active_limit=chance.choice((200, 1000) if large else (1, 3, 20, 1000)),
            first=chance.choice((10.0, 60.0, 300.0) if small else (60.0, 300.0)),
            factor=chance.choice((1.5, 2.0, 3.0)),
            max=chance.choice((900.0, 1800.0)),
            greylist=chance.choice((60.0, 300.0)),
            lifetime=chance.choice((1800.0, 3600.0, 7200.0) if small else (3600.0,)),
            warn_after=chance.choice((0.0, 600.0, 1800.0)),
            window=chance.choice((1, 2, 4, 16)),
            window_size=chance.choice((1, 1000, 1024 * 1024)),
            small_body=chance.choice((0, 300, 256 * 1024)),
            read_ahead=chance.choice((1, 2, 16)),
            max_unreported=chance.choice((1, 2, 32)),
            max_recipients=chance.choice((1, 2, 100)),
            stop_grace=chance.choice((0.0, 1.0, 60.0)),
            timeouts=chance.choice((1.0, 1.0, 0.1)),
        )

    def _site(self, number: int, name: str = "") -> tuple[HostPlan, ...]:
        chance = self._chance
        count = 1 if name else chance.choices((1, 2, 3), (6, 3, 1))[0]
        return tuple(
            HostPlan(
                name=name or f"mx{number}-{each}.test",
                addresses=self._addresses(number, each),
                preference=chance.choice((10, 10, 20)),
                temper=self._temper(),
            )
            for each in range(count)
        )

    def _addresses(self, number: int, host: int) -> tuple[str, ...]:
        found = [f"10.{number}.{host}.1"]
        if self._chance.random() < 0.2:
            found.append(f"fd00::{number + 1}:{host + 1}")
        if self._chance.random() < 0.1:
            found.append(f"10.{number}.{host}.2")
        return tuple(found)

    def _temper(self) -> Temper:
        chance = self._chance
        offers = [each for each in OFFERS if chance.random() < (0.2 if each == "STARTTLS" else 0.8)]
        if chance.random() < 0.2:
            offers.append(chance.choice(ODD_OFFERS))
        chance.shuffle(offers)
        return Temper(
            offers=tuple(offers),
            latency=chance.choice((0.001, 0.02, 0.3)),
            service=chance.choice((0.0, 0.0, 0.0, 0.1, 20.0)) if self._dense == 1.0 else 0.0,
            final=chance.choice((0.0, 0.0, 1.0, 100.0)) if self._dense == 1.0 else chance.choice((0.0, 0.01)),
            trouble=self._sometimes(0.6, 0.4),
            cuts=self._sometimes(0.4, 0.8),
            faults=self._faults,
            greylist=chance.choice((60.0, 300.0)) if chance.random() < 0.1 * self._dense else 0.0,
            connections=chance.choice((1, 2, 3)) if chance.random() < 0.1 else 0,
            transactions=chance.choice((1, 2, 5)) if chance.random() < 0.1 else 0,
            rate=chance.choice((5, 30)) if chance.random() < 0.1 * self._dense else 0,
            down=self._down(),
            refuses=chance.random() < 0.5,
        )

    def _down(self) -> tuple[tuple[float, float], ...]:
        chance = self._chance
        if chance.random() < 0.03:
            return ((0.0, 1e9),)
        if chance.random() < 0.15:
            start = chance.uniform(0, self._calm_at)
            return ((start, start + chance.choice((5.0, 300.0, 3000.0))),)
        return ()

    def _domains(self, sites: int) -> tuple[Domain, ...]:
        chance = self._chance
        usual = [Domain(name=f"d{number}.test", site=number % sites) for number in range(sites + chance.randint(0, 3))]
        for nature in ("implicit", "null", "nxdomain", "nodata", "servfail"):
            if chance.random() < 0.12:
                usual.append(Domain(name=f"{nature}.test", site=sites if nature == "implicit" else 0, nature=nature))
        return tuple(usual)

    def _drops(self, domains: tuple[Domain, ...]) -> tuple[Drop, ...]:
        chance = self._chance
        times = sorted(round(chance.random() * self._span, 3) for _ in range(self._messages))
        if self._messages > SOME[1] or chance.random() < 0.5:  # together
            period = self._span / 4 if self._messages > SOME[1] else 10.0
            times = [round(at / period) * period for at in times]
        return tuple(self._drop(number, at, domains) for number, at in enumerate(times))

    def _drop(self, number: int, at: float, domains: tuple[Domain, ...]) -> Drop:
        chance = self._chance
        count = chance.choices((1, 2, 3, 8), (70, 20, 8, 2))[0]
        plain = chance.random() < 0.8
        shapes = ("plain", "dots", "dots", "8bit", "long") if self._in_one_piece else ("plain", "dots")
        return Drop(
            at=at,
            number=number,
            sender=f"s{number}@{chance.choice(domains).name}" if chance.random() < 0.9 else "",
            to=tuple(self._to(number, each, chance.choice(domains).name) for each in range(count)),
            size=200 if plain else chance.choice((0, 2000, 20_000)),
            shape="plain" if plain else chance.choice(shapes),
            ret="" if plain else chance.choice(("", "FULL", "HDRS")),
            foreign=chance.random() < 0.2,
            deadline=0 if chance.random() < 0.95 else chance.choice((30, 600, 3600)),
        )

    def _to(self, number: int, each: int, domain: str) -> To:
        kind = self._chance.choices(("r", "no", "full"), (100, 6 * self._dense, 2 * self._dense))[0]
        return To(address=f"{kind}{each}.m{number}@{domain}", notify=self._chance.choice(NOTIFY))

    def _strikes(self) -> tuple[Strike, ...]:
        chance = self._chance
        found = []
        for what in ("stop", "kill", "jump", "hold", "release", "retry", "remove", "dns", "disk", "power"):
            while chance.random() < 0.15:
                found.append(Strike(at=round(chance.uniform(0, self._calm_at), 3), what=what, value=self._value(what)))
        if any(each.what == "hold" for each in found) and chance.random() < 0.8:
            found.append(Strike(at=self._calm_at, what="release"))
        return tuple(sorted(found, key=lambda strike: strike.at))

    def _value(self, what: str) -> float:
        chance = self._chance
        match what:
            case "jump":
                return chance.choice((3600.0, -3600.0, 10.0, -10.0))
            case "dns" | "disk":
                return chance.choice((1.0, 60.0, 900.0))
            case "kill" | "power":
                return float(chance.randint(0, 50))
            case _:
                return float(chance.randint(0, 1000))

    def _kills(self) -> tuple[int, ...]:
        chance = self._chance
        found: list[int] = []
        while chance.random() < 0.4 and len(found) < 6:
            found.append(int(2 ** chance.uniform(3, 7 + self._messages.bit_length())))
        return tuple(found)
