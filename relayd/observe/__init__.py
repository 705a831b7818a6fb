"""Events, log, counters: they read, they never decide."""
