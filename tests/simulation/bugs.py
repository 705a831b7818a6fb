"""The known bugs: mistakes that somebody could make, each in the piece of source where it would be made."""

from __future__ import annotations

from typing import Any

from tests.simulation.bugs_tables import TABLES
from tests.simulation.mutating import Edit, Mutation
from tests.simulation.scenario import Strike


def _bug(name: str, module: str, before: str, after: str, **provoked: Any) -> Mutation:
    return Mutation(name=name, edits=(Edit(module=module, before=before, after=after),), **provoked)


EASY = {"trouble": 0.0, "cuts": 0.0, "service": 0.0, "final": 0.0, "down": (), "greylist": 0.0}
EASY |= {"connections": 0, "transactions": 0, "rate": 0}
KILLED = {"kills": (150, 300, 80, 200, 500)}

_ALL_GATES = (
    "    return back_off(site, now) or window(site, now) or connection_rate(site, now) or message_rate(site, now)\n"
)

RELAYING = (
    _bug(
        "the outcome is recorded before the reply to the message",
        "relay.data_plans",
        "        transaction.end = self.said\n        self._expect(Step.FINAL, transaction)\n",
        "        transaction.end = self.said\n        self._expect(Step.FINAL, transaction)\n"
        "        if transaction.data is not None:\n"
        "            transaction.settle(verdict(Reply(250, 'taken, surely')))\n",
    ),
    _bug(
        "2yz to RCPT is taken for delivered",
        "relay.transaction",
        "            self.accepted.append(recipient)\n        else:",
        "            self.accepted.append(recipient)\n"
        "            self.load.outcomes[recipient.number] = Delivered(reply)\n        else:",
    ),
    _bug(
        "4yz is taken for 5yz",
        "relay.transaction",
        "    return Failed(reply, scope) if reply.permanent else Deferred(reply, scope)\n",
        "    return Failed(reply, scope)\n",
    ),
    _bug(
        "5yz is taken for 4yz",
        "relay.transaction",
        "    return Failed(reply, scope) if reply.permanent else Deferred(reply, scope)\n",
        "    return Deferred(reply, scope)\n",
    ),
    _bug(
        "a reply is taken for that of the message behind",
        "relay.engine",
        "        entry = self._expected.popleft()\n",
        "        entry = self._expected.popleft() if len(self._expected) < 4 else self._expected.pop()\n",
    ),
    _bug(
        "RSET is forgotten behind a chunked message",
        "relay.chunked_plan",
        "        self._put(commands.RSET)\n        self._expect(Step.RSET, transaction)\n",
        "",
    ),
    _bug(
        "what comes with the 354 is taken for the reply to the message",
        "relay.engine",
        "            while self.over is None and (reply := self._parser.next()) is not None:\n"
        "                self._answer(reply, unsent, arrived)\n"
        "            if self.over is None and not self._expected and self._parser.pending:\n"
        '                raise ProtocolError("more than was asked for")\n',
        "            while self.over is None and self._expected and (reply := self._parser.next()) is not None:\n"
        "                self._answer(reply, unsent, arrived)\n",
        tempers={"offers": ("PIPELINING",), "trouble": 0.3, "faults": ("glued", "5yz", "4yz")},
    ),
    _bug(
        "the body is sent without a 354",
        "relay.data_plans",
        "        elif step is Step.DATA and (reply.code == 354 or reply.transient or reply.permanent):\n",
        "        elif step is Step.DATA:\n",
        tempers={"offers": ("PIPELINING",), "trouble": 0.3, "faults": ("wrong",)},
    ),
    _bug(
        "lines of a reply with different codes are accepted",
        "relay.replies",
        "        if self._lines and code != self._code:\n",
        "        if False:\n",
        tempers={"trouble": 0.3, "faults": ("garbage",)},
    ),
    _bug(
        "a dot at the beginning of a line is not doubled",
        "relay.content",
        '    return content.replace(b"\\r\\n.", b"\\r\\n..")\n',
        "    return content\n",
    ),
    _bug(
        "a message whose answer is lost is not marked",
        "relay.aftermath",
        "status=outcome.status, possible_duplicate=True)",
        "status=outcome.status)",
    ),
    _bug(
        "a message whose answer is lost is sent again at once",
        "relay.transaction",
        "        return left >= self.end - 2\n",
        "        return False\n",
    ),
    _bug(
        "what the server took before the connection broke is forgotten",
        "relay.aftermath",
        "    if transaction.final is None or not transaction.accepted:\n",
        "    if True:\n",
    ),
    _bug(
        "the end of a message leaves without a note",
        "relay.exchange",
        "                self._ports.in_hand.ending(delivery)\n",
        "                continue\n",
    ),
    _bug(
        "held and removed mail is sent all the same",
        "relay.exchange",
        "            if not self._ports.withdrawn(load.delivery.id):\n",
        "            if True:\n",
    ),
    _bug(
        "outcomes of a connection that failed are not reported",
        "relay.exchange",
        "            self.engine.break_off(outcome, self._wire.unsent)\n            self._guard(self._report)\n",
        "            self.engine.break_off(outcome, self._wire.unsent)\n            self.engine.settled.clear()\n",
    ),
)

LIMITED = ("PIPELINING", "8BITMIME", "LIMITS MAILMAX=2 RCPTMAX=2")
LIMITS = (
    Mutation(
        name="a server's limit of messages on a connection is ignored: MAILMAX",
        edits=(
            Edit(
                module="relay.quota",
                before="        self.spent = self.spent or self._begun == self._limits.mails\n",
                after="",
            ),
            Edit(
                module="relay.quota",
                before="        if self._limits.mails is None or self._begun < self._limits.mails:\n",
                after="        if True:\n",
            ),
        ),
        tempers={"offers": LIMITED},
    ),
    _bug(
        "a message that needs several transactions is counted as one: MAILMAX",
        "relay.quota",
        "        if self._limits.mails is None or self._begun < self._limits.mails:\n",
        "        if True:\n",
        tempers={"offers": LIMITED},
        rules={"max_recipients": 1},
    ),
    _bug(
        "a server's limit of recipients in a transaction is ignored: RCPTMAX",
        "relay.quota",
        "        self.recipients = min(max_recipients, limits.recipients or max_recipients)\n",
        "        self.recipients = max_recipients\n",
        tempers={"offers": LIMITED},
    ),
)

SETTLING = (
    _bug(
        "an outcome that the queue did not take is dropped",
        "attempt.commits",
        "            self._health.failed(error)\n            return batch\n",
        "            self._health.failed(error)\n            self._durable(batch)\n            return []\n",
    ),
    _bug(
        "a waiter is not woken after the commit",
        "attempt.commits",
        "        self._health.works()\n        self._durable(batch)\n",
        "        self._health.works()\n",
    ),
    _bug(
        "what is reported wakes nobody",
        "attempt.commits",
        "        self._emptied.clear()\n        self._gathered.set()\n",
        "        self._emptied.clear()\n",
    ),
    _bug(
        "the retry time is ignored",
        "attempt.settle",
        "            due = min(due, expires(retry, arrived, deadline))\n",
        "            due = now\n",
    ),
    _bug(
        "the lifetime is ignored",
        "attempt.retry",
        "    return expires(retry, arrived, deadline) <= now\n",
        "    return False\n",
    ),
    _bug(
        "there is no sweep for what is too old",
        "attempt.manager",
        "            await self._expire(now)\n            await self._warn(now)\n",
        "            await self._warn(now)\n",
    ),
    _bug(
        "there is no sweep for what is late",
        "attempt.manager",
        "            await self._expire(now)\n            await self._warn(now)\n",
        "            await self._expire(now)\n",
    ),
    _bug(
        "a notice of a failure is lost",
        "attempt.settle",
        "    if recipient.status is Status.FAILED and Notify.FAILURE in wanted:\n        return Action.FAILED\n",
        "",
    ),
    _bug(
        "a notice of an expiry is lost",
        "attempt.settle",
        "notices=_notices(delivery, recipients, None))",
        "notices={})",
    ),
    _bug(
        "NOTIFY=NEVER is ignored",
        "attempt.settle",
        "    wanted = Notify.FAILURE if recipient.notify is None else recipient.notify\n",
        "    wanted = Notify.FAILURE | (recipient.notify or Notify.FAILURE)\n",
    ),
    _bug(
        "a notification is not of the debt that it settles",
        "attempt.notifier",
        "        await self._notifications.add_notification(message, content)\n",
        "        await self._notifications.add_notification(replace(message, id=message.id[:-1] + '7'), content)\n",
    ),
    _bug(
        "notifications are made when there is time, and nobody is told that they are owed",
        "attempt.notifier",
        '        """Something is owed."""\n        self._owed.set()\n',
        '        """Something is owed."""\n',
    ),
    _bug(
        "back-off never ends",
        "attempt.retry",
        "    return now + _delay(retry, failures, jitter, reply)\n",
        "    return now + retry.lifetime * 2 + _delay(retry, failures, jitter, reply)\n",
    ),
)

CLAIMING = (
    _bug(
        "what was not tried is not given back",
        "relays",
        "        if await self._claims.give_back(undone):\n",
        "        if undone and False:\n",
    ),
    _bug(
        "a lease is never released: what the queue did not take back is not offered again",
        "claims",
        "            self._unwanted += deliveries\n",
        "",
        world={"queue_faults": 0.3, "ambiguous": 0.0},
    ),
    _bug(
        "leases are not renewed",
        "claims",
        "            await self._queue.renew(leases, until)\n",
        "",
    ),
    _bug(
        "a slot is not released",
        "manager",
        "        self._slots.release()\n        self.wake()\n",
        "        self.wake()\n",
    ),
    _bug(
        "the scheduler is not told of a relayer's end",
        "relays",
        "            self._scheduler.ended(turn, len(deliveries), self._clock(), course)\n",
        "",
    ),
    _bug(
        "the window of a site is ignored",
        "schedule.gates",
        _ALL_GATES,
        "    return back_off(site, now) or connection_rate(site, now) or message_rate(site, now)\n",
    ),
    _bug(
        "back-off is ignored",
        "schedule.gates",
        _ALL_GATES,
        "    return window(site, now) or connection_rate(site, now) or message_rate(site, now)\n",
        tempers={"down": ((0.0, 1e9),), "refuses": True},
        quiet=True,
    ),
    _bug(
        "a relayer is given more than it may send on its connection",
        "schedule.scheduler",
        "        batch = min(max(share, SMALLEST_BATCH), state.limits.max_messages_per_connection)\n",
        "        batch = max(share, SMALLEST_BATCH)\n",
        rules={"per_connection": 2},
    ),
    _bug(
        "the rate of messages is ignored",
        "schedule.gates",
        _ALL_GATES,
        "    return back_off(site, now) or window(site, now) or connection_rate(site, now)\n",
        tempers=EASY,
        rules={"message_rate": "3/1m"},
        quiet=True,
    ),
    _bug(
        "a run is counted as one connection, however many it makes",
        "relay.entrance",
        "        if self._permit is not None:\n",
        "        if self._permit is not None and self.connects == 1:\n",
        tempers=EASY | {"offers": ("PIPELINING", "STARTTLS")},
        rules={"connection_rate": "3/1m", "per_connection": 1},
        quiet=True,
    ),
    _bug(
        "mail that falls due is not looked for",
        "manager",
        "        for each in due:\n            self._routes.mail_for(each.destination, each.recipients)\n",
        "",
    ),
    _bug(
        "a name server that does not answer is taken for a name that does not exist",
        "route.mx",
        '            return Deferred(reason=f"cannot look up the MX of {domain}: {reason}", status=DNS_TROUBLE)\n',
        '            return Failed(reason=f"cannot look up the MX of {domain}: {reason}", status=DNS_TROUBLE)\n',
    ),
    _bug(
        "an operator's removal is forgotten when the attempt settles",
        "spool.settling",
        "    if before.removing and not delivered:\n",
        "    if False:\n",
        world={"strikes": tuple(Strike(at=0.5 * number, what="remove", value=number % 12.0) for number in range(24))},
    ),
)

SPOOLING = (
    _bug(
        "what died in flight is not marked at the start",
        "spool.spool",
        "            taken_over = await queue.take_over(now, earlier.noted)\n",
        "            from relayd.spool.notes import Noted\n"
        "            taken_over = await queue.take_over(now, Noted())\n",
    ),
    _bug(
        "orphans are never adopted",
        "orphans",
        "            if first := await self._spool.adopt(found):\n",
        "            return\n            if first := None:\n",
        world=KILLED,
    ),
    _bug(
        "a copy whose row is missing is adopted, and its original taken again",
        "spool.spool",
        "        if placed := [each for each in originals - known if self.bodies.exists(each)]:\n",
        "        if placed := []:\n",
        world=KILLED,
    ),
    _bug(
        "rows that could not be committed are forgotten",
        "spool.spool",
        "        repeats = await self.queue.add([submission.message for submission in self._uncommitted])\n",
        "        waiting = self._take(self._uncommitted)\n"
        "        repeats = await self.queue.add([submission.message for submission in waiting])\n"
        "        self._uncommitted += waiting\n",
    ),
    _bug(
        "a file is told to be accepted before its row is committed",
        "spool.spool",
        "                if not accepted:  # what is ours already must be told of; the trouble comes again\n"
        "                    raise\n",
        "                accepted += self._take(self._uncommitted)\n",
    ),
    _bug(
        "bodies are never unlinked",
        "spool.spool",
        "            gone = await self._on_disk(self.bodies.unlink, finished)\n",
        "            gone = finished\n",
    ),
)

OTHERS = (
    Mutation(
        name="the rate of connections is ignored",
        edits=(
            Edit(
                module="schedule.gates",
                before=_ALL_GATES,
                after="    return back_off(site, now) or window(site, now) or message_rate(site, now)\n",
            ),
            Edit(
                module="schedule.scheduler",
                before="            if not state.connections.room(rate, now):\n",
                after="            if False:\n",
            ),
        ),
        tempers=EASY,
        rules={"connection_rate": "3/1m", "per_connection": 1},
        quiet=True,
    ),
    Mutation(
        name="a mark of a possible duplicate is lost at the next attempt",
        edits=(
            Edit(
                module="spool.settling",
                before="    if before.possible_duplicate and not after.possible_duplicate:\n",
                after="    if False:\n",
            ),
            Edit(
                module="attempt.settle",
                before="        possible_duplicate=recipient.possible_duplicate or duplicate,\n",
                after="        possible_duplicate=duplicate,\n",
            ),
        ),
    ),
    Mutation(
        name="notes are removed before they are taken over",
        edits=(
            Edit(
                module="spool.spool",
                before="            taken_over = await queue.take_over(now, earlier.noted)\n",
                after="            earlier.forget()\n"
                "            taken_over = await queue.take_over(now, earlier.noted)\n",
            ),
        ),
        world={"kills": (150, 2, 300, 2, 80, 2)},  # the second step of a start takes over
    ),
)

MUTATIONS = (*RELAYING, *LIMITS, *SETTLING, *CLAIMING, *SPOOLING, *OTHERS, *TABLES)
