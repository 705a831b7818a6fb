"""How sites and their targets, and what is demanded of TLS there, cross between the daemon and its workers.

As codec.py, whose rules hold here, too.
"""

from __future__ import annotations

from collections.abc import Sequence

from relayd.mail.outcome import Deferred, Failed
from relayd.mail.route import AddressFamily, Credentials, Host, Site, Target
from relayd.mail.tls import (
    Dane,
    Demand,
    Source,
    Sts,
    Tlsa,
    TlsPolicy,
    TlsResult,
    TlsSession,
    TlsSetup,
    TlsVersion,
)
from relayd.workers.codec import Packed, failure_of, pack_outcome


def pack_site(site: Site) -> Packed:
    """See the module."""
    credentials = site.credentials
    return (
        site.key,
        [[pack_host(host) for host in group] for group in site.hosts],
        site.tls.value,
        credentials and _pack_credentials(credentials),
        site.source_addresses,
        site.address_family.value,
        site.sts and (site.sts.enforce, tuple(site.sts.hosts)),
        site.dane,
        _pack_setup(site.setup),
        site.configured,
    )


def site_of(packed: Packed) -> Site:
    """Undo `pack_site`."""
    key, hosts, tls, credentials, source_addresses, address_family, sts, dane, setup, configured = packed
    return Site(
        key=key,
        hosts=tuple(tuple(host_of(host) for host in group) for group in hosts),
        tls=TlsPolicy(tls),
        credentials=credentials and _credentials_of(credentials),
        source_addresses=source_addresses,
        address_family=AddressFamily(address_family),
        sts=Sts(enforce=sts[0], hosts=frozenset(sts[1])) if sts else None,
        dane=dane,
        setup=_setup_of(setup),
        configured=configured,
    )


def _pack_credentials(credentials: Credentials) -> Packed:
    return (credentials.username, credentials.password, credentials.oauth, credentials.mechanisms)


def _credentials_of(packed: Packed) -> Credentials:
    username, password, oauth, mechanisms = packed
    return Credentials(username=username, password=password, oauth=oauth, mechanisms=mechanisms)


def _pack_setup(setup: TlsSetup) -> Packed:
    return (setup.minimum_version.value, setup.ca_file, setup.certificate_file, setup.key_file)


def _setup_of(packed: Packed) -> TlsSetup:
    version, ca_file, certificate_file, key_file = packed
    return TlsSetup(
        minimum_version=TlsVersion(version), ca_file=ca_file, certificate_file=certificate_file, key_file=key_file
    )


def pack_host(host: Host) -> Packed:
    """See the module."""
    return (host.name, host.port, host.implicit_tls)


def host_of(packed: Packed) -> Host:
    """Undo `pack_host`."""
    name, port, implicit_tls = packed
    return Host(name=name, port=port, implicit_tls=implicit_tls)


def pack_targets(found: Sequence[Target] | Deferred | Failed) -> Packed:
    """Pack what a look-up of addresses found."""
    if isinstance(found, Deferred | Failed):
        return (None, pack_outcome(found))
    return ([(pack_host(target.host), target.address, _pack_demand(target.demand)) for target in found], None)


def targets_of(packed: Packed) -> list[Target] | Deferred | Failed:
    """Undo `pack_targets`."""
    found, failure = packed
    if failure is not None:
        return failure_of(failure)
    return [Target(host=host_of(host), address=address, demand=_demand_of(demand)) for host, address, demand in found]


def pack_token(token: str | Deferred) -> Packed:
    """See the module."""
    return (None, pack_outcome(token)) if isinstance(token, Deferred) else (token, None)


def token_of(packed: Packed) -> str | Deferred:
    """Undo `pack_token`."""
    token, failure = packed
    if failure is None:
        return str(token)
    deferred = failure_of(failure)
    assert isinstance(deferred, Deferred)
    return deferred


def pack_session(session: TlsSession) -> Packed:
    """See the module."""
    return (
        session.domains,
        session.host,
        session.address,
        session.local,
        session.result.value,
        session.source.value,
        session.records,
        session.base,
        session.detail,
    )


def session_of(packed: Packed) -> TlsSession:
    """Undo `pack_session`."""
    domains, host, address, local, result, source, records, base, detail = packed
    return TlsSession(
        domains=domains,
        host=host,
        address=address,
        local=local,
        result=TlsResult(result),
        source=Source(source),
        records=records,
        base=base,
        detail=detail,
    )


def _pack_demand(demand: Demand) -> Packed:
    dane = demand.dane
    return (
        demand.level.value,
        demand.source.value,
        dane and _pack_dane(dane),
        demand.trial,
    )


def _demand_of(packed: Packed) -> Demand:
    level, source, dane, trial = packed
    return Demand(level=TlsPolicy(level), source=Source(source), dane=dane and _dane_of(*dane), trial=trial)


def _pack_dane(dane: Dane) -> Packed:
    records = [(one.usage, one.selector, one.matching, one.content) for one in dane.records]
    return (records, dane.names, dane.next_hops)


def _dane_of(records: Sequence[Packed], names: Sequence[str], next_hops: Sequence[Sequence[str]]) -> Dane:
    return Dane(
        records=tuple(
            Tlsa(usage=usage, selector=selector, matching=matching, content=content)
            for usage, selector, matching, content in records
        ),
        names=tuple(names),
        next_hops=tuple(tuple(each) for each in next_hops),
    )
