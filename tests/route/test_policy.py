"""The strictest of what is configured, DANE and MTA-STS (RFC 7672 section 2.2, RFC 8461 sections 2 and 5)."""

from __future__ import annotations

from itertools import product

import pytest

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.tls import Dane, Demand, Source, Sts, Tlsa, TlsPolicy, TlsSetup, TlsVersion
from relayd.route.policy import BrokenDane, DaneVerdict, NoDane, fold, label, rule_for
from relayd.route.settings import RouteSettings, TlsRule

MX = "mx1.example.org"
RECORD = Tlsa(usage=3, selector=1, matching=1, content=b"\0" * 32)
USABLE = Dane(records=(RECORD,), names=(MX,))
UNUSABLE = Dane(records=(), names=(MX,))
NONE = NoDane("the zone is not signed")
BROKEN = BrokenDane("bogus")
ENFORCED = Sts(enforce=True, hosts=frozenset({MX}))
TESTING = Sts(enforce=False, hosts=frozenset({MX}))
OTHER_HOST = Sts(enforce=True, hosts=frozenset({"mx2.example.org"}))
OTHER_TESTED = Sts(enforce=False, hosts=frozenset({"mx2.example.org"}))
LEVELS = list(TlsPolicy)
NEVER, MAY, REQUIRE, VERIFY = LEVELS


def by_dane(*, trial: bool = False, dane: Dane = USABLE) -> Demand:
    return Demand(level=REQUIRE, source=Source.DANE, dane=dane, trial=trial)


BY_STS = Demand(level=VERIFY, source=Source.MTA_STS)
TABLE: list[tuple[TlsPolicy, DaneVerdict, Sts | None, Demand | None]] = [
    *((level, NONE, None, Demand(level=level)) for level in LEVELS),
    *((level, BROKEN, sts, None) for level in LEVELS for sts in (None, ENFORCED, TESTING)),
    *((level, USABLE, sts, by_dane()) for level in LEVELS for sts in (None, ENFORCED, TESTING, OTHER_HOST)),
    (NEVER, UNUSABLE, None, by_dane(dane=UNUSABLE)),
    (MAY, UNUSABLE, None, by_dane(dane=UNUSABLE)),
    (REQUIRE, UNUSABLE, None, Demand(level=REQUIRE)),
    (VERIFY, UNUSABLE, None, Demand(level=VERIFY, dane=UNUSABLE)),
    (MAY, UNUSABLE, ENFORCED, Demand(level=VERIFY, source=Source.MTA_STS, dane=UNUSABLE)),
    (MAY, UNUSABLE, TESTING, by_dane(dane=UNUSABLE, trial=True)),
    *((level, NONE, ENFORCED, BY_STS) for level in (NEVER, MAY, REQUIRE)),
    (VERIFY, NONE, ENFORCED, Demand(level=VERIFY)),
    *((level, NONE, OTHER_HOST, None) for level in LEVELS),
    *((level, NONE, TESTING, Demand(level=level, trial=True)) for level in (NEVER, MAY, REQUIRE)),
    (VERIFY, NONE, TESTING, Demand(level=VERIFY)),
    *((level, NONE, OTHER_TESTED, Demand(level=level)) for level in LEVELS),
]


@pytest.mark.parametrize(("level", "dane", "sts", "demand"), TABLE)
def test_the_strictest_counts(level: TlsPolicy, dane: DaneVerdict, sts: Sts | None, demand: Demand | None) -> None:
    found = fold(MX, level=level, dane=dane, sts=sts)

    if demand is None:
        assert isinstance(found, Deferred)
        assert found.scope is Scope.HOST
        assert MX in found.reason
    else:
        assert found == demand


def test_nothing_is_ever_weaker_than_what_is_configured() -> None:
    danes: tuple[DaneVerdict, ...] = (USABLE, UNUSABLE, NONE, BROKEN)
    policies = (None, ENFORCED, TESTING, OTHER_HOST, OTHER_TESTED)
    for level, dane, sts, pinned in product(LEVELS, danes, policies, (False, True)):
        found = fold(MX, level=level, dane=dane, sts=sts, pinned=pinned)
        if isinstance(found, Demand):
            proven = found.level is VERIFY or (found.dane is not None and bool(found.dane.records))
            assert not found.level < min(level, REQUIRE)
            assert proven or level is not VERIFY
            assert found.enforced or not (isinstance(dane, Dane) or sts is ENFORCED)


def test_authorities_of_the_operators_own_have_to_be_met_beside_dane() -> None:
    assert fold(MX, level=VERIFY, dane=USABLE, pinned=True) == Demand(level=VERIFY, dane=USABLE)


def test_the_first_rule_that_matches_says_what_is_demanded_and_the_key_says_so() -> None:
    own = TlsSetup(minimum_version=TlsVersion.TLS_1_3)
    settings = RouteSettings(
        hostname="relay.example.org",
        tls_rules=(
            TlsRule(match=("*.example.net",), level=VERIFY, setup=TlsSetup()),
            TlsRule(match=("example.com",), level=MAY, setup=own),
            TlsRule(match=("example.com", "example.net"), level=NEVER, setup=TlsSetup()),
        ),
    )

    def of(destination: str) -> tuple[TlsPolicy, str]:
        rule = rule_for(destination, settings)
        return rule.level, label(rule, settings)

    assert of("mail.example.net") == (VERIFY, "#verify")
    assert of("example.net") == (NEVER, "#none")
    assert of("example.org") == (MAY, "")
    level, key = of("example.com")
    assert level is MAY
    assert key.startswith("#opportunistic+")
