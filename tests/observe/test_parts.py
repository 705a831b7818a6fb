"""relayd.observe.parts: what cannot work now, and nothing that works again."""

from __future__ import annotations

from relayd.mail.events import Degraded, Lifecycle, Restored
from relayd.observe.parts import Parts


def test_a_part_is_degraded_until_it_is_restored_with_the_reason_told_last() -> None:
    parts = Parts()
    parts(Degraded(part="queue", reason="disk full"))
    parts(Degraded(part="spool", reason="no room"))
    parts(Degraded(part="queue", reason="read-only"))
    parts(Lifecycle(state="reloaded"))
    parts(Restored(part="spool"))
    parts(Restored(part="never told of"))

    assert dict(parts.degraded) == {"queue": "read-only"}
