"""What a server's limits leave of one connection (RFC 9422): transactions, recipients of each, and domains in all."""

from __future__ import annotations

from relayd.mail.outcome import Deferred, Scope
from relayd.mail.reply import EnhancedStatus
from relayd.relay.capabilities import Limits
from relayd.relay.transaction import Load

_TOO_MANY = EnhancedStatus(4, 5, 3)  # RFC 3463 section 3.6: too many recipients


class Quota:
    """`recipients` is how many one transaction may have: the least of what the server says and we do."""

    __slots__ = ("_begun", "_domains", "_limits", "recipients", "spent")

    def __init__(self, limits: Limits, max_recipients: int) -> None:
        self.recipients = min(max_recipients, limits.recipients or max_recipients)
        self.spent = False  # nothing more is to be started
        self._limits = limits
        self._begun = 0
        self._domains: set[str] = set()

    def admit(self, load: Load) -> bool:
        """Whether `load` can be begun.  Recipients at a domain too many have an outcome then, if others have none."""
        limit = self._limits.domains
        if limit is None or not load.pending:
            return True
        known = set(self._domains)
        for one in load.pending:
            if len(known) < limit:
                known.add(one.address.domain)
        if not any(one.address.domain in known for one in load.pending):
            self.spent = True
            return False
        self._domains = known
        for one in load.pending:
            if one.address.domain not in known:
                load.outcomes[one.number] = _later(f"recipients of no more than {limit} domains", Scope.RECIPIENT)
        load.renew()
        return True

    def begin(self) -> None:
        """Count a transaction."""
        self._begun += 1
        self.spent = self.spent or self._begun == self._limits.mails

    @property
    def refusal(self) -> Deferred | None:
        """Why the rest of a load cannot go on this connection; None if it can."""
        if self._limits.mails is None or self._begun < self._limits.mails:
            return None
        return _later(f"no more than {self._limits.mails} messages", Scope.MESSAGE)


def _later(what: str, scope: Scope) -> Deferred:
    return Deferred(scope=scope, reason=f"the server takes {what} in one connection", status=_TOO_MANY)
