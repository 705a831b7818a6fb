"""Transcripts as the command line shows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from relayd.mail.transcript import Speaker, Transcript


def transcript_lines(transcript: Transcript) -> Iterator[str]:
    """Yield a line for each line that was said: when, by whom, what; and behind each reply how long it took."""
    asked = 0.0
    for line in transcript:
        first, *others = line.text.split("\n")
        took = f"  ({line.after - asked:.3f} s)" if line.speaker is Speaker.SERVER else ""
        yield f"{line.after:9.3f} {line.speaker.value} {first}{'' if others else took}"
        for other in others:
            yield f"{'':9} {line.speaker.value} {other}{took if other is others[-1] else ''}"
        asked = line.after


def transcript_summary(transcript: Transcript) -> list[dict[str, Any]]:
    """Return what `--json` prints."""
    return [
        {"after": round(line.after, 3), "speaker": line.speaker.name.lower(), "text": line.text} for line in transcript
    ]
