"""Which host is tried first, and what is remembered of failures."""

from __future__ import annotations

from datetime import timedelta

from relayd.mail.route import Host, Target
from relayd.relay.hosts import HostMemory
from relayd.relay.remembered import Remembered
from tests.relay.kit import NOW

A, B, C = (Host(name=f"{letter}.test") for letter in "abc")
SPAN = timedelta(minutes=10)


def reverse(hosts: list[Host]) -> None:
    hosts.reverse()


def test_hosts_go_by_preference_and_equals_are_shuffled() -> None:
    memory = HostMemory(SPAN)
    assert memory.in_order([[A, B], [C]], NOW, reverse) == [B, A, C]


def test_a_host_that_failed_is_tried_last_until_it_is_forgotten() -> None:
    memory = HostMemory(SPAN)
    memory.host_failed(A, NOW)
    assert memory.in_order([[A], [B], [C]], NOW, reverse) == [B, C, A]
    assert memory.in_order([[A], [B], [C]], NOW + SPAN, reverse) == [A, B, C]


def test_an_address_that_failed_is_tried_last_and_one_that_works_is_not() -> None:
    memory = HostMemory(SPAN)
    one, two = (Target(host=A, address=f"192.0.2.{n}") for n in (1, 2))
    memory.target_failed(one, NOW)
    memory.host_failed(A, NOW)
    assert memory.addresses_in_order([one, two], NOW) == [two, one]
    memory.works(one)
    assert memory.addresses_in_order([one, two], NOW) == [one, two]
    assert memory.in_order([[A], [B]], NOW, reverse) == [A, B]


def test_only_so_much_is_remembered() -> None:
    remembered = Remembered[int](SPAN, 2)
    for number in (1, 2, 3):
        remembered.add(number, NOW)
    assert [number for number in (1, 2, 3) if remembered.has(number, NOW)] == [2, 3]
