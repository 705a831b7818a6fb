"""The structure of a report, as a JSON schema written from RFC 8460 section 4.4."""

from __future__ import annotations

from typing import Any

import jsonschema

RESULT_TYPES = (
    *("starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "certificate-not-trusted"),
    *("validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required"),
    *("sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"),
)
DATE_TIME = {"type": "string", "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$", "format": "date-time"}
TEXT = {"type": "string", "minLength": 1}
COUNT = {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}  # I-JSON (RFC 7493 section 2.2)
ADDRESS = {"anyOf": [{"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}]}
A_LABELS = {"type": "string", "pattern": r"^[!-~]+$"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> dict[str, Any]:
    properties = {**required, **(optional or {})}
    return {"type": "object", "required": list(required), "properties": properties, "additionalProperties": False}


POLICY = _object(
    {"policy-type": {"enum": ["tlsa", "sts", "no-policy-found"]}, "policy-domain": A_LABELS},
    {
        "policy-string": {"type": "array", "items": TEXT, "minItems": 1},
        "mx-host": {"type": "array", "items": A_LABELS, "minItems": 1},
    },
)
FAILURE = _object(
    {"result-type": {"enum": list(RESULT_TYPES)}, "failed-session-count": {**COUNT, "minimum": 1}},
    {
        "sending-mta-ip": ADDRESS,
        "receiving-mx-hostname": A_LABELS,
        "receiving-mx-helo": TEXT,
        "receiving-ip": ADDRESS,
        "additional-information": {"type": "string", "format": "uri"},
        "failure-reason-code": TEXT,
    },
)
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    **_object(
        {
            "organization-name": TEXT,
            "date-range": _object({"start-datetime": DATE_TIME, "end-datetime": DATE_TIME}),
            "contact-info": {"type": "string", "format": "email"},
            "report-id": TEXT,
            "policies": {
                "type": "array",
                "minItems": 1,
                "items": _object(
                    {
                        "policy": POLICY,
                        "summary": _object(
                            {"total-successful-session-count": COUNT, "total-failure-session-count": COUNT}
                        ),
                    },
                    {"failure-details": {"type": "array", "items": FAILURE, "minItems": 1}},
                ),
            },
        }
    ),
}
_VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER)


def check(report: Any) -> None:
    """Assert that a report has the structure, and that its sums agree."""
    _VALIDATOR.validate(report)
    for policy in report["policies"]:
        failed = sum(failure["failed-session-count"] for failure in policy.get("failure-details", ()))
        assert policy["summary"]["total-failure-session-count"] == failed
