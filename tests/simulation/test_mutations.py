"""The simulation can fail: known bugs, put into relayd one at a time, are found."""

from __future__ import annotations

import pytest

from tests.simulation.bugs import MUTATIONS
from tests.simulation.mutating import Mutation, mutated
from tests.simulation.mutations import hunted

SEEDS = 150  # twice as many as the last of them needs


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_known_bug_fits_the_source_and_can_be_taken_out_again(mutation: Mutation) -> None:
    for _ in range(2):  # the second time it would not fit, had it left a trace
        with mutated(mutation):
            pass


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_it_is_found(mutation: Mutation) -> None:
    assert hunted(mutation, range(SEEDS)).seeds
