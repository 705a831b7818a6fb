"""Fuzzing: each module is one target, `one(octets)`, which claims something of any octets; `WORDS` are what they are
often made of.

`test_targets.py` lets Hypothesis call each target for a moment in the normal suite.  `python -m tests.fuzz` lets
atheris, a fuzzer led by coverage, do it for as long as it is told (`make fuzz SECONDS=n`).
"""
