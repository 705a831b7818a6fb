"""The simulation can fail: known bugs, put into relayd one at a time, are found.

Here those that few seeds find; `make mutations` hunts all of them.
"""

from __future__ import annotations

import pytest

from tests.simulation.bugs import MUTATIONS
from tests.simulation.mutating import Mutation, mutated
from tests.simulation.mutations import hunted

QUICK = (
    "2yz to RCPT is taken for delivered",
    "4yz is taken for 5yz",
    "5yz is taken for 4yz",
    "RSET is forgotten behind a chunked message",
    "a dot at the beginning of a line is not doubled",
    "a message whose answer is lost is not marked",
    "a message whose answer is lost is sent again at once",
    "what is reported wakes nobody",
    "a run is counted as one connection, however many it makes",
    "a relayer is given more than it may send on its connection",
    "a server's limit of messages on a connection is ignored: MAILMAX",
    "queue: what is in flight is claimed",
    "queue: what is put off stays in flight",
    "queue: recipients that are final count as open",
)
SEEDS = 30


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_known_bug_fits_the_source_and_can_be_taken_out_again(mutation: Mutation) -> None:
    for _ in range(2):  # the second time it would not fit, had it left a trace
        with mutated(mutation):
            pass


@pytest.mark.parametrize("name", QUICK)
def test_it_is_found(name: str) -> None:
    (mutation,) = (each for each in MUTATIONS if each.name == name)

    assert hunted(mutation, range(SEEDS)).seeds
