"""What each stage is told of the configuration."""

from __future__ import annotations

from relayd.identity import Identity
from relayd.mail.address import Address
from relayd.manager import ManagerSettings
from relayd.relay.settings import RelaySettings
from relayd.report.settings import ReportSettings
from relayd.route.settings import RouteSettings
from relayd.schedule.settings import ScheduleSettings
from relayd.sections import Config
from relayd.submission.settings import SubmissionSettings

WATCHDOG = 2  # times the longest wait for a server: a relayer that is silent for longer hangs


def route_settings(config: Config, identity: Identity) -> RouteSettings:
    """Return the router's settings."""
    relay = config.relay
    return RouteSettings(
        hostname=identity.hostname,
        port=relay.port,
        tls=config.tls.policy,
        tls_setup=config.tls_setup,
        tls_rules=config.tls_rules,
        mta_sts=config.tls.mta_sts,
        allow_loopback=relay.allow_loopback,
        allow_private=relay.allow_private,
        source_addresses=config.source_addresses,
        address_family=relay.address_family,
        rules=config.routes,
    )


def schedule_settings(config: Config) -> ScheduleSettings:
    """Return the scheduler's settings."""
    relay = config.relay
    return ScheduleSettings(
        max_connections=relay.max_connections,
        active_limit=relay.active_limit,
        limits=config.site_limits,
        rules=config.sites,
    )


def submission_settings(config: Config, identity: Identity) -> SubmissionSettings:
    """Return the pickup's settings."""
    relay = config.relay
    return SubmissionSettings(
        hostname=identity.hostname,
        origin=relay.origin or identity.hostname,
        spool=config.spool,
        aliases=config.aliases,
        max_message_size=relay.max_message_size,
        trust_producers=relay.trust_producers,
        settle_time=relay.settle_time,
    )


def manager_settings(config: Config) -> ManagerSettings:
    """Return the manager's settings."""
    return ManagerSettings(
        check_interval=config.relay.check_interval,
        max_connections=config.relay.max_connections,
        watchdog=config.timeouts.longest_silence * WATCHDOG,
    )


def report_settings(config: Config, identity: Identity) -> ReportSettings | None:
    """Return the reporter's settings; None if it is not to report: it is switched off, or nobody could tell who we are.

    Who answers for reports is, unless the configuration says otherwise, the one mailbox that every domain with mail has
    (RFC 5321 section 4.5.1).
    """
    section = config.tls_report
    given = section.sender or section.contact
    named = not identity.hostname.startswith("[")
    if not section.enabled or not (named or given):
        return None
    sender = Address.parse(given) if given else Address("postmaster", identity.hostname)
    return ReportSettings(
        hostname=identity.hostname if named else sender.domain,
        organization=section.organization or sender.domain,
        contact=Address.parse(section.contact) if section.contact else sender,
        sender=sender,
        dkim=config.dkim,
    )


def relay_settings(config: Config, identity: Identity) -> RelaySettings:
    """Return the relayers' settings."""
    return RelaySettings(
        hostname=identity.hostname,
        timeouts=config.timeouts,
        pipeline_window=config.relay.pipeline_window,
        transcripts=config.relay.transcripts,
    )
