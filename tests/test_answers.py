"""What a running manager tells of itself: what its scheduler obeys, at that instant."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest

from relayd import answers
from relayd.explanation import Standing, read
from relayd.mail.outcome import Deferred, Failed, Scope
from relayd.mail.route import Site
from relayd.manager import RelayManager
from tests.support.managed import Ended, World, managing, until


async def gates(manager: RelayManager, destination: str, *leases: object) -> dict[str, Any]:
    answer = await manager.answers.answer({"ask": "gates", "destination": destination, "leases": list(leases)})
    assert answer is not None
    return answer | {"gates": {gate["gate"]: read(gate) for gate in answer["gates"]}}


def closed(answer: dict[str, Any]) -> list[Standing]:
    return [gate for gate in answer["gates"].values() if not gate.open]


async def test_a_full_window_and_what_is_in_hand_are_told() -> None:
    world = World(waiting={"one.test": 1000})
    async with managing(world, max_connections_per_site=2) as manager:
        await until(lambda: world.running == 2)

        answer = await gates(manager, "one.test", 1, 2, 99, "1", None)

        assert answer["site"] == "one.test"
        assert [(gate.gate, gate.why) for gate in closed(answer)] == [("window", "2 of 2 connections in use")]
        assert answer["gates"]["route"].why == "to mx.one.test:25"
        begun = answer["begun"]
        assert len(begun) >= 1
        assert all(datetime.fromisoformat(at) <= datetime.now(UTC) for at in begun.values())
        world.gate.set()


async def test_a_site_that_is_out_of_reach_is_told_of_with_its_time() -> None:
    refused = Deferred(scope=Scope.HOST, reason="connection refused")
    world = World(waiting={"dead.test": 5}, relay=lambda deliveries: Ended(undone=deliveries, failure=refused))
    world.gate.set()
    async with managing(world) as manager:
        await until(lambda: world.failed == ["dead.test"])
        await until(lambda: manager.status.startswith("0 relayers"))

        (gate,) = closed(await gates(manager, "dead.test"))

        assert gate.gate == "back-off"
        assert gate.until is not None
        assert gate.until > datetime.now(UTC)


async def test_where_nobody_has_sent_is_looked_up_for_the_answer() -> None:
    async with managing(World()) as manager:
        answer = await gates(manager, "new.test")

        assert answer["gates"]["route"].open
        assert answer["gates"]["window"].why == "0 of 20 connections in use"
        assert closed(answer) == []


@pytest.mark.parametrize(
    ("where", "why"),
    [
        (Deferred(reason="no name server answers"), "it cannot be looked up: no name server answers"),
        (Failed(reason="no such domain"), "its mail fails: no such domain"),
    ],
)
async def test_a_destination_that_leads_nowhere_has_no_site(where: Deferred | Failed, why: str) -> None:
    world = World(route_to=lambda destination: where)
    async with managing(world) as manager:
        answer = await gates(manager, "nowhere.test")

        assert [(gate.gate, gate.why) for gate in closed(answer)] == [("route", why)]
        assert set(answer["gates"]) == {"route"}


async def test_a_destination_whose_look_up_failed_is_told_of_with_its_time() -> None:
    world = World(waiting={"nowhere.test": 1}, route_to=lambda destination: Deferred(reason="no name server answers"))
    async with managing(world) as manager:
        await until(lambda: world.failed == ["dns:nowhere.test"])

        answer = await gates(manager, "nowhere.test")

        (gate,) = closed(answer)
        assert gate.until is not None
        assert "no name server answers" in gate.why
        assert answer["site"] == "dns:nowhere.test"


async def test_a_look_up_that_takes_long_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "LOOK_UP", 0.05)
    world = World()

    async def never(destination: str) -> Site | Deferred | Failed:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(world, "route", never)
    async with managing(world) as manager:
        assert [(gate.gate, gate.why) for gate in closed(await gates(manager, "slow.test"))] == [
            ("route", "it is being looked up")
        ]


async def test_its_state_names_its_start_and_what_it_cannot_do() -> None:
    world = World()
    async with managing(world) as manager:
        state = await manager.answers.answer({"ask": "state"})
        assert state is not None
        assert (state["owner"], state["degraded"]) == ("this", [])
        async with asyncio.timeout(10):
            while (await manager.answers.answer({"ask": "state"}) or {})["adopting"]:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"ask": "nothing"},
        {"ask": "gates"},
        {"ask": "gates", "destination": 5, "leases": []},
        {"ask": "gates", "destination": "one.test", "leases": "1"},
    ],
)
async def test_what_it_does_not_understand_it_does_not_answer(question: dict[str, Any]) -> None:
    async with managing(World()) as manager:
        assert await manager.answers.answer(question) is None
