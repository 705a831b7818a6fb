"""Whether the daemon gets on with its work: nothing is stuck that could go, nothing is tried before its time, what an
operator took back is not begun, and nothing is left on the disk."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from relayd.attempt.retry import CLOSEST
from relayd.mail.events import Attempted
from relayd.mail.recipient import Recipient, Status
from tests.simulation.disk import INCOMING, NEW, REJECTED
from tests.simulation.facts import Facts
from tests.simulation.scenario import HostPlan, Scenario
from tests.simulation.tables import BODY_KEPT
from tests.simulation.world import World

LONGEST = 1500.0  # seconds: an attempt that hangs until its connection is given up
MINUTE = 60.0  # seconds
TRAVEL = 10.0  # seconds that mail may be on its way
FOR_EVER = 1e8  # seconds
FEW = 5  # attempts, however short the time
SPREAD = 0.8  # of the time until the next attempt is kept at least
INSTANT = 0.001  # seconds: what clocks may differ by


class Pace:
    """Hears each attempt: none comes before it is due, unless somebody asked for it, and they are not too many."""

    def __init__(self, scenario: Scenario, facts: Facts) -> None:
        asked = any(strike.what in ("retry", "jump", "kill", "power") for strike in scenario.strikes)
        self._watches = not (asked or scenario.kills)
        self._facts = facts
        self._before: dict[tuple[str, int], tuple[datetime | None, datetime | None]] = {}
        self._count: Counter[tuple[str, int]] = Counter()
        rules = scenario.rules
        self._shortest = SPREAD * min(rules.first, rules.greylist, CLOSEST.total_seconds())

    def heard(self, event: Attempted) -> None:
        """Judge an attempt by the one before."""
        recipient = event.recipient
        key = event.id, recipient.number
        attempted, due = self._before.get(key, (None, None))
        early = due is not None and recipient.attempted is not None and recipient.attempted < due
        if self._watches and early and recipient.attempted != attempted:
            self._facts.breach(f"{event.id} to {recipient.address} was tried at {recipient.attempted}, due at {due}")
        self._before[key] = recipient.attempted, recipient.due
        self._count[key] += 1
        if self._watches and self._count[key] > FEW + event.age / self._shortest:
            self._facts.breach(
                f"{event.id} to {recipient.address} was tried {self._count[key]} times in {event.age:.0f} s"
            )


def judge_progress(world: World) -> None:
    """Note every promise that was broken, in the end."""
    _judge_what_is_left(world)
    _judge_what_was_given_up(world)
    if world.scenario.uninterrupted:
        _judge_connections(world)
    if world.scenario.quiet:
        _judge_knocking(world)
        for number, site in enumerate(world.scenario.sites):
            if len(site) == 1 and len(site[0].addresses) == 1 and _is_easy(site[0]):
                _judge_messages(world, number, site[0])


def _judge_what_is_left(world: World) -> None:
    """A body is there while its message is; nothing else is."""
    files, tables = world.disk.files, world.disk.tables
    special = {NEW, INCOMING, REJECTED}
    bodies = {name for each in files.directories if each not in special for name in files.names(each)}
    kept = {name for name, past in tables.history.items() if past.body == BODY_KEPT}
    if missing := set(tables.messages) - bodies:
        world.facts.breach(f"bodies are missing: {sorted(missing)[:3]}")
    # What finished last may have found no time before a stop, on a slow disk: the next start would unlink it.
    left = bodies - set(tables.messages) - kept - set(tables.notices) - set(tables.to_unlink)
    if left and not world.scenario.power_fails:  # what a power cut brings back goes at the next start
        world.facts.breach(f"bodies are left: {sorted(left)[:3]}")
    if tables.lapsed and not world.scenario.disk_lies:
        world.facts.breach(f"{tables.lapsed} leases lapsed: nobody settled them, gave them back, or renewed them")
    if files.names(INCOMING):
        world.facts.breach(f"files are left half taken in: {sorted(files.names(INCOMING))[:3]}")


# whether it is stuck


def _judge_what_was_given_up(world: World) -> None:
    """What had time enough after the world had become calm was not given up."""
    scenario = world.scenario
    if any(strike.what == "jump" for strike in scenario.strikes):
        return
    needed = _well_at(scenario) + _patience(scenario)
    well = {
        domain.name
        for domain in scenario.domains
        if domain.nature in ("mx", "implicit") and _answers(scenario.sites[domain.site], scenario.rules.timeouts)
    }
    failed = {
        str(each.address): each
        for past in world.disk.tables.history.values()
        if past.row.id not in world.facts.operated["hold"]
        for each in past.row.recipients
        if each.status is Status.FAILED
    }
    for drop in world.facts.dropped.values():
        if drop.deadline or drop.at + scenario.rules.lifetime < needed:
            continue
        for to in drop.to:
            if to.address.startswith("r") and to.address.partition("@")[2] in well and to.address in failed:
                _judge_given_up(world, failed[to.address])


def _judge_given_up(world: World, recipient: Recipient) -> None:
    if recipient.dsn == "5.4.7":
        world.facts.breach(f"{recipient.address} was given up, although there was time: {recipient.reply}")


def _answers(site: Iterable[HostPlan], timeouts: float) -> bool:
    """Whether all hosts are there in the end, and answer in time."""
    tempers = [host.temper for host in site]
    dead = any(end > FOR_EVER for temper in tempers for _, end in temper.down)
    slow = any(each.service > 100 * timeouts or each.service + each.final > 500 * timeouts for each in tempers)
    return not (dead or slow)


def _well_at(scenario: Scenario) -> float:
    """When the world becomes calm, and all that lasts longer is over."""
    ends = [end for site in scenario.sites for host in site for _, end in host.temper.down if end < FOR_EVER]
    ends += [strike.at + strike.value for strike in scenario.strikes if strike.what in ("dns", "disk")]
    return max([scenario.calm_at, *ends])


def _patience(scenario: Scenario) -> float:
    """How long it may take from then until everything has been tried once more."""
    rules = scenario.rules
    tempers = [host.temper for site in scenario.sites for host in site]
    recipients = sum(len(drop.to) for drop in scenario.drops)
    one: float = max(6 * each.service + each.final + 20 * each.latency + each.greylist for each in tempers)
    one += 120.0 if any(each.rate or each.connections or each.transactions for each in tempers) else 0.0
    one += 40.0 if rules.message_rate or rules.connection_rate else 0.0
    return 2 * rules.max + 3 * rules.check_interval + LONGEST + 2 * recipients * (one + scenario.slow_disk)


# rates


def _judge_knocking(world: World) -> None:
    """Where nobody is at home, one relayer knocks each time that a site's back-off is over."""
    scenario = world.scenario
    if any(_answers([host], 1e9) for site in scenario.sites for host in site):
        return
    doors = max(sum(len(host.addresses) for host in site) for site in scenario.sites)
    most = doors * (world.facts.backed_off + len(scenario.sites) * scenario.rules.initial)
    if world.facts.injected["down"] > most:
        world.facts.breach(f"{world.facts.injected['down']} connections were tried to hosts that are down, of {most}")


def _is_easy(host: HostPlan) -> bool:
    """Whether mail arrives there when it is sent."""
    temper = host.temper
    limits = temper.greylist or temper.connections or temper.transactions or temper.rate
    return not (temper.trouble or temper.cuts or temper.service or temper.final or temper.down or limits)


def _judge_connections(world: World) -> None:
    """Whatever is tried, to any address of a site, counts."""
    for number, tried in world.limits.tried.items():
        _judge_rate(world, number, "connections", world.scenario.rules.connection_rate, tried, MINUTE - INSTANT)


def _judge_messages(world: World, number: int, host: HostPlan) -> None:
    first: dict[str, float] = {}
    for takes in world.facts.takes.values():
        for take in takes:
            if take.server == host.name:
                first[take.queue_id] = min(take.at, first.get(take.queue_id, take.at))
    rate = world.scenario.rules.message_rate
    _judge_rate(world, number, "messages", rate, sorted(first.values()), MINUTE - TRAVEL)


def _judge_rate(world: World, number: int, what: str, rate: str, times: Sequence[float], period: float) -> None:
    most = int(rate.partition("/")[0] or len(times))
    for start, end in zip(times, times[most:], strict=False):
        if end - start < period:
            world.facts.breach(f"site {number} got more than {rate}: {most + 1} {what} in {end - start:.0f} s")
            return
