"""What is said of an envelope: MAIL, and RCPT for each recipient."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from datetime import datetime

from relayd.mail.outcome import Failed, Scope
from relayd.mail.recipient import Recipient
from relayd.relay import commands
from relayd.relay.capabilities import Capabilities
from relayd.relay.requirements import BAD_ADDRESS
from relayd.relay.transaction import Load, Script, Step


def envelope(load: Load, recipients: Iterable[Recipient], offered: Capabilities, now: datetime) -> Script:
    """Return the commands up to the last RCPT, to be written at `now`.  Who cannot be named in one has an outcome and
    is left out.

    Raises:
        UnsafeCommand: the sender cannot be named.
    """
    utf8 = offered.smtputf8 and (
        commands.needs_smtputf8(load.delivery) or any(one.address.smtputf8 for one in recipients)
    )
    script: Script = deque()
    script.append((Step.MAIL, None, commands.mail(load.delivery, load.body, offered, now, utf8=utf8)))
    for one in recipients:
        try:
            script.append((Step.RCPT, one, commands.rcpt(one, offered, utf8=utf8)))
        except commands.UnsafeCommand as error:
            load.outcomes[one.number] = Failed(scope=Scope.RECIPIENT, reason=str(error), status=BAD_ADDRESS)
    return script
