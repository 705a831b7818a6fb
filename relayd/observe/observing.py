"""All that listens to events in a daemon: the log, the counters, and which parts are degraded."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from relayd.mail.events import Event, Events, Lifecycle
from relayd.observe.counters import Counters
from relayd.observe.log import LibraryLog, Log
from relayd.observe.observer import Observer
from relayd.observe.parts import Parts
from relayd.observe.settings import LogSettings


class Observing:
    """An `Events`, while `listening` lasts.  `also` is one more who is told, None for nobody."""

    def __init__(self, fd: int, settings: LogSettings, environment: Mapping[str, str]) -> None:
        self.counters = Counters()
        self.parts = Parts()
        self.also: Events | None = None
        self._log = Log(fd, settings, environment)
        self._observer = Observer(self._log.logger, self.counters, self.parts)
        self._libraries = LibraryLog(self._log.logger)

    def __call__(self, event: Event) -> None:
        """Take note of an event."""
        if self.also is not None:
            self.also(event)
        self._observer(event)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Write what libraries log, too, while the context lasts; at its end all is written."""
        logging.getLogger().addHandler(self._libraries)
        try:
            yield
            self(Lifecycle(state="stopped"))
        finally:
            logging.getLogger().removeHandler(self._libraries)
            self._log.close()

    def reload(self, settings: LogSettings) -> None:
        """Write the log as these say from now on."""
        self._log.reload(settings)
        self._observer.log = self._libraries.log = self._log.logger

    @property
    def lines_dropped(self) -> int:
        """How many lines of the log were lost, because nobody read them."""
        return self._log.dropped
