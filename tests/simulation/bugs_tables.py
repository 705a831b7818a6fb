"""Known bugs in the SQL of the queue, which are hunted with the real one: see bugs.py."""

from __future__ import annotations

from typing import Any

from tests.simulation.mutating import Edit, Mutation
from tests.simulation.scenario import Strike


def _bug(name: str, module: str, before: str, after: str, **provoked: Any) -> Mutation:
    edit = Edit(module=f"spool.{module}", before=before, after=after)
    return Mutation(name=f"queue: {name}", edits=(edit,), sqlite=True, **provoked)


_WAITING = "                AS (lease IS NULL AND held = 0 AND status IN ('queued', 'deferred')) STORED,\n"

TABLES = (
    _bug(
        "what is released stays held",
        "operators",
        "    return _set_held(db, ids, held=False)\n",
        "    return 0\n",
        world={"strikes": (Strike(at=3.0, what="hold"), Strike(at=300.0, what="release"))},
    ),
    _bug("what is in flight is claimed", "schema", _WAITING, _WAITING.replace("lease IS NULL AND ", "")),
    Mutation(
        name="queue: what is not due yet is claimed",
        edits=(
            Edit(
                module="spool.claims",
                before='AND turn = {turn} AND due <= ?2 ORDER BY due LIMIT ?3)"\n',
                after='AND turn = {turn} AND due <= ?2 + 1000000000000 ORDER BY due LIMIT ?3)"\n',
            ),
            Edit(
                module="spool.claims",
                before=" and recipient.due is not None and recipient.due <= now,\n",
                after=",\n",
            ),
        ),
        sqlite=True,
    ),
    _bug(
        "what is put off stays in flight",
        "rows",
        "        possible_duplicate = ?, lease = NULL, removing = 0\n",
        "        possible_duplicate = ?, removing = 0\n",
    ),
    _bug(
        "what is given back stays in flight",
        "rows",
        "    UPDATE recipients SET lease = NULL FROM json_each(?) AS free\n",
        "    UPDATE recipients SET lease = lease FROM json_each(?) AS free\n",
    ),
    _bug(
        "what the last daemon had in flight stays so",
        "takeover",
        '    db.execute(f"UPDATE recipients SET lease = NULL WHERE lease {AMONG}", (as_set(leases),))\n',
        "",
    ),
    _bug(
        "a lease that has ended is not cleared away",
        "leases",
        "(microseconds(now),)).fetchone() is not None\n",
        "(0,)).fetchone() is not None\n",
        world={"queue_faults": 0.3, "ambiguous": 1.0},
    ),
    _bug(
        "what is removed in flight is not removed when it is given back",
        "leases",
        "    if removing:\n        finish_removals(db, removing, None)\n",
        "",
    ),
    _bug(
        "recipients that are final count as open",
        "history",
        "    UPDATE messages SET open = open - json_extract(closed.value, '$[1]') FROM json_each(?) AS closed\n",
        "    UPDATE messages SET open = open - 0 FROM json_each(?) AS closed\n",
    ),
    _bug(
        "a message finishes although a notice is owed for it",
        "history",
        '        " AND NOT EXISTS (SELECT 1 FROM notices WHERE notices.message = messages.id)",\n',
        '        "",\n',
    ),
    _bug("what was told as delayed is never too old", "expiry", "for warned in range(3))", "for warned in range(1))"),
    _bug(
        "what is removed in flight is not removed when its daemon has died",
        "takeover",
        "    finish_removals(db, {row[0] for row in rows if row[4]}, now)\n    begun",
        "    begun",
    ),
)
