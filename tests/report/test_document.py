"""relayd.report.document: the JSON of RFC 8460 section 4.4, its name and its compression."""

from __future__ import annotations

import gzip
import json
import re
from datetime import date

from hypothesis import given

from relayd.mail.address import Address
from relayd.mail.tls import TlsResult
from relayd.report.counting import Failure, Policy, PolicyType, Tally
from relayd.report.document import Subject, compressed, document
from tests.report.schema import check
from tests.report.test_counting import STS, entries, tally_of

SUBJECT = Subject(
    day=date(2026, 11, 26),
    domain="company-y.example",
    organization="Company-X",
    contact=Address.parse("sts-reporting@company-x.example"),
    hostname="relay.company-x.example",
)


def test_the_report_is_the_rfcs_example_in_shape() -> None:
    tally = Tally()
    policy = Policy(type=PolicyType.STS, domain="company-y.example", strings=STS)
    tally.add(policy, None, 5326)
    expired = Failure(
        result=TlsResult.CERTIFICATE_EXPIRED, local="2001:db8:abcd:12::1", host="mx1.mail.company-y.example"
    )
    tally.add(policy, expired, 100)
    lacking = Failure(
        result=TlsResult.STARTTLS_NOT_SUPPORTED,
        local="2001:db8:abcd:13::1",
        host="mx2.mail.company-y.example",
        address="203.0.113.56",
        detail="502 no",
    )
    tally.add(policy, lacking, 200)

    report = document(SUBJECT, tally)

    check(report)
    assert report == {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2026-11-26T00:00:00Z", "end-datetime": "2026-11-26T23:59:59Z"},
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "2026-11-26.company-y.example@relay.company-x.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": list(STS),
                    "policy-domain": "company-y.example",
                    "mx-host": ["mx1.example.net", "*.mail.example.net"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 300},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:12::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:13::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                        "failure-reason-code": "502 no",
                    },
                ],
            }
        ],
    }


def test_without_a_policy_there_is_none_to_show() -> None:
    tally = Tally()
    tally.add(Policy(type=PolicyType.NONE, domain="company-y.example"), None)

    (only,) = document(SUBJECT, tally)["policies"]

    assert only == {
        "policy": {"policy-type": "no-policy-found", "policy-domain": "company-y.example"},
        "summary": {"total-successful-session-count": 1, "total-failure-session-count": 0},
    }


def test_what_is_counted_together_is_told_of_the_domain_itself() -> None:
    tally = Tally()
    tally.add(Policy(type=PolicyType.TLSA, domain=""), None)

    (only,) = document(SUBJECT, tally)["policies"]

    assert only["policy"] == {"policy-type": "tlsa", "policy-domain": "company-y.example"}


@given(entries)
def test_whatever_was_counted_the_report_is_as_the_schema_has_it(
    counts: list[tuple[Policy, Failure | None, int]],
) -> None:
    tally = tally_of([*counts, (Policy(type=PolicyType.NONE, domain="a.example"), None, 1)])
    told = json.loads(gzip.decompress(compressed(document(SUBJECT, tally))))

    # An empty string in a policy is no line of it: the schema wants text.
    for policy in told["policies"]:
        policy["policy"].pop("policy-string", None)
    check(told)
    sums = [each["summary"] for each in told["policies"]]
    assert sum(s["total-successful-session-count"] + s["total-failure-session-count"] for s in sums) == tally.sessions


def test_the_same_counts_make_the_same_octets() -> None:
    tally = tally_of([(Policy(type=PolicyType.NONE, domain="a.example"), None, 1)])

    first = compressed(document(SUBJECT, tally))

    assert first == compressed(document(SUBJECT, tally))
    assert first[4:8] == bytes(4), "no time"
    assert first[3] == 0, "no name"


def test_the_name_of_the_file_is_of_the_rfcs_form() -> None:
    """RFC 8460 section 5.1."""
    form = r"company-x\.example!company-y\.example!1795651200!1795737599![0-9A-Za-z]+\.json\.gz"

    assert re.fullmatch(form, SUBJECT.file_name)
