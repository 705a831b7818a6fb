"""What crosses to a worker and back comes out as it went in: every field, whatever is in it.

The strategies are made from the types of the fields, so a field that a noun gains is filled here at once, and lost on
the way until codec.py carries it.
"""

from __future__ import annotations

import dataclasses
import marshal
from datetime import UTC, datetime
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relayd.mail.address import Address
from relayd.mail.attempt import Attempt
from relayd.mail.delivery import Delivery
from relayd.mail.figures import Figures, Histogram
from relayd.mail.message import Body
from relayd.mail.outcome import Deferred, Delivered, Failed
from relayd.mail.recipient import Notify, Recipient
from relayd.mail.reply import EnhancedStatus, Reply
from relayd.mail.route import Credentials, Host, Site, Target
from relayd.relay.relayer import Ended
from relayd.workers import codec, codec_sites

T = TypeVar("T")


def across(packed: Any) -> Any:
    """Send something packed through the wire's format."""
    return marshal.loads(marshal.dumps(packed))


def every_field(cls: type[T], **known: st.SearchStrategy[Any]) -> st.SearchStrategy[T]:
    """Return instances of a dataclass with all fields filled, those with defaults too."""
    return st.builds(cls, **{field.name: known.get(field.name, ...) for field in dataclasses.fields(cls)})  # type: ignore[arg-type]


times = st.datetimes(timezones=st.just(UTC))
finite = st.floats(allow_nan=False)
for noun, strategy in {
    datetime: times,
    float: finite,
    str: st.text(st.characters()),  # surrogates too: what a server says may hold any octet
    Notify: st.sets(st.sampled_from(list(Notify)), min_size=1).map(lambda flags: Notify(sum(f.value for f in flags))),
}.items():
    st.register_type_strategy(noun, strategy)
for each in (Address, Body, EnhancedStatus, Reply, Credentials, Host, Recipient, Target, Deferred, Failed, Delivered):
    st.register_type_strategy(each, every_field(each))

st.register_type_strategy(Histogram, every_field(Histogram))
st.register_type_strategy(Figures, every_field(Figures))

deliveries = every_field(Delivery, recipients=st.lists(every_field(Recipient), max_size=3).map(tuple))


@given(deliveries)
def test_a_delivery_comes_out_as_it_went_in(delivery: Delivery) -> None:
    assert codec.delivery_of(across(codec.pack_delivery(delivery))) == delivery


@given(every_field(Site))
def test_a_site_comes_out_as_it_went_in(site: Site) -> None:
    assert codec_sites.site_of(across(codec_sites.pack_site(site))) == site


@given(every_field(Attempt, delivery=deliveries))
def test_an_attempt_comes_out_as_it_went_in_with_the_delivery_that_stayed(attempt: Attempt) -> None:
    assert codec.attempt_of(across(codec.pack_attempt(attempt)), attempt.delivery) == attempt


@given(st.lists(deliveries, unique_by=lambda one: one.id), st.data())
def test_what_a_run_left_comes_out_with_the_deliveries_that_stayed(batch: list[Delivery], data: st.DataObject) -> None:
    undone = st.lists(st.sampled_from(batch), unique_by=lambda one: one.id) if batch else st.just([])
    ended = data.draw(every_field(Ended, undone=undone.map(tuple)))
    places = {each.id: place for place, each in enumerate(batch)}

    assert codec.ended_of(across(codec.pack_ended(ended, places)), batch) == ended


@given(st.lists(every_field(Target)) | every_field(Deferred) | every_field(Failed))
def test_what_a_look_up_found_comes_out_as_it_went_in(found: list[Target] | Deferred | Failed) -> None:
    assert codec_sites.targets_of(across(codec_sites.pack_targets(found))) == found


@given(every_field(Host))
def test_a_host_comes_out_as_it_went_in(host: Host) -> None:
    assert codec_sites.host_of(across(codec_sites.pack_host(host))) == host


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Richer(Delivery):
    """What a delivery may be one day."""

    colour: datetime | None = None


def test_a_field_that_is_not_carried_is_noticed() -> None:
    richer = every_field(Richer, recipients=st.just(()), colour=times)

    @given(richer)
    def crosses(delivery: Richer) -> None:
        crossed = codec.delivery_of(across(codec.pack_delivery(delivery)))
        assert dataclasses.asdict(crossed) == dataclasses.asdict(delivery)

    with pytest.raises(AssertionError):
        crosses()


@given(every_field(Figures))
def test_what_a_run_measured_comes_out_as_it_went_in(figures: Figures) -> None:
    assert codec.figures_of(across(codec.pack_figures(figures))) == figures
