"""Leases: one process a name, taken over at once when its holder is gone, never when it only is slow."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import msgspec
import pytest

from shared.errors import Refused
from shared.stopping import Stop
from shared.streams import Client, HeldLease, Lease, acquire, lease, live_workers, own_lease
from tests.integration import protocol
from tests.wait import until


@pytest.fixture
def client(redis_url: str, pipeline_name: str) -> Iterator[Client]:
    with protocol.partition(redis_url, pipeline_name) as one:
        yield one


class Waiting(Stop):
    """Asked to stop? Each wait does something instead of letting time pass."""

    def __init__(self, meanwhile: Callable[[], object], *, stopped: bool = False) -> None:
        super().__init__()
        self.waits = 0
        self._meanwhile = meanwhile
        self._stopped = stopped

    def wait(self, seconds: float) -> bool:
        assert seconds > 0
        self.waits += 1
        self._meanwhile()
        return self._stopped


def must_not_wait() -> None:
    raise AssertionError("it waited")


def get(client: Client, one: Lease, stopped: Stop | None = None) -> HeldLease:
    held = acquire(client, one, stopped or Waiting(must_not_wait))
    assert held is not None
    return held


def gone_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def key(client: Client, one: Lease) -> str:
    return client.topology.lease(one.group, one.name)


def test_a_lease_says_who_holds_it(client: Client) -> None:
    one = own_lease("transform", "one", "127.0.0.1:4321")
    get(client, one)
    assert live_workers(client) == [one]
    assert msgspec.json.decode(client.call("GET", key(client, one)), type=Lease) == one
    assert 0 < client.call("PTTL", key(client, one)) <= lease.TTL_MS
    assert (one.kind, one.group, one.name, one.metrics) == ("transform", "transform", "one", "127.0.0.1:4321")


def test_leases_are_listed_by_kind_and_name_and_only_of_this_pipeline(redis_url: str, client: Client) -> None:
    for kind, name in (("transform", "b"), ("loader", "z*[?]\\"), ("transform", "a")):
        get(client, own_lease(kind, name, ""))
    with protocol.partition(redis_url, f"{client.topology.partition}0") as neighbour:
        get(neighbour, own_lease("ingest", "n", "")).release()
        get(neighbour, own_lease("transform", "n", ""))
        assert [one.name for one in live_workers(neighbour)] == ["n"]
    assert [(one.kind, one.name) for one in live_workers(client)] == [
        ("loader", "z*[?]\\"),
        ("transform", "a"),
        ("transform", "b"),
    ]


def test_one_name_may_be_held_once_in_each_group(client: Client) -> None:
    get(client, own_lease("transform", "one", ""))
    get(client, own_lease("loader", "one", ""))
    assert len(live_workers(client)) == 2


def test_renewing_extends_it_and_changes_nothing_else(client: Client) -> None:
    one = own_lease("loader", "one", "")
    held = get(client, one)
    client.call("PEXPIRE", key(client, one), 500)
    assert held.renew() is True
    assert client.call("PTTL", key(client, one)) > 5_000
    assert live_workers(client) == [one]


def test_a_released_name_is_free_at_once(client: Client) -> None:
    get(client, own_lease("loader", "one", "")).release()
    assert live_workers(client) == []
    get(client, own_lease("loader", "one", ""))


def test_a_holder_that_renews_is_left_its_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 0.05)
    first = get(client, own_lease("loader", "one", ""))
    waiting = Waiting(first.renew)
    with pytest.raises(Refused, match=r"CONSUMER_NAME=one: process \d+ .* keeps renewing") as refused:
        acquire(client, own_lease("loader", "one", ""), waiting)
    assert refused.value.exit_code == 3
    assert waiting.waits > 0
    assert live_workers(client) == [first.lease]


def test_a_new_holder_waits_longer_than_a_lease_lasts() -> None:
    """A holder that is alive has renewed by then."""
    assert lease.TAKEOVER_SECONDS * 1000 > lease.TTL_MS > 2 * lease.RENEW_SECONDS * 1000


def test_a_lease_lapses_without_renewal(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "TTL_MS", 40)
    get(client, own_lease("loader", "one", ""))
    until(lambda: live_workers(client) == [], what="the lease lapses")
    get(client, own_lease("loader", "one", ""))


def test_whoever_waits_takes_a_lease_that_lapses(client: Client) -> None:
    first, second = own_lease("loader", "one", ""), own_lease("loader", "one", "")
    get(client, first)
    waiting = Waiting(lambda: client.call("DEL", key(client, first)))
    get(client, second, waiting)
    assert waiting.waits == 1
    assert live_workers(client) == [second]


def test_a_worker_that_is_asked_to_stop_stops_waiting(client: Client) -> None:
    first = get(client, own_lease("loader", "one", ""))
    assert acquire(client, own_lease("loader", "one", ""), Waiting(lambda: None, stopped=True)) is None
    assert live_workers(client) == [first.lease]


def test_the_name_of_a_process_that_ended_is_taken_at_once(client: Client) -> None:
    ended = msgspec.structs.replace(own_lease("loader", "one", ""), pid=gone_process())
    get(client, ended)
    heir = own_lease("loader", "one", "")
    get(client, heir)
    assert live_workers(client) == [heir]


def test_a_pid_that_another_process_has_now_is_no_holder(client: Client) -> None:
    mine = own_lease("loader", "one", "")
    get(client, msgspec.structs.replace(mine, instance="another", pid_started=mine.pid_started - 3_600))
    get(client, own_lease("loader", "one", ""))


def test_of_a_process_elsewhere_nobody_knows_whether_it_ended(client: Client) -> None:
    elsewhere = msgspec.structs.replace(own_lease("loader", "one", ""), pid=gone_process(), boot="another")
    get(client, elsewhere)
    assert acquire(client, own_lease("loader", "one", ""), Waiting(lambda: None, stopped=True)) is None
    assert live_workers(client) == [elsewhere]


def test_of_two_heirs_one_takes_the_name(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second finds another holder than the one it saw end."""
    monkeypatch.setattr(lease, "TAKEOVER_SECONDS", 0)
    ended = msgspec.structs.replace(own_lease("loader", "one", ""), pid=gone_process())
    get(client, ended)
    heirs = [own_lease("loader", "one", "") for _ in range(2)]
    look = lease.holder_is_gone

    def overtaken(holder: Lease) -> bool:
        gone = look(holder)
        if gone:
            monkeypatch.setattr(lease, "holder_is_gone", look)
            get(client, heirs[0])
        return gone

    monkeypatch.setattr(lease, "holder_is_gone", overtaken)
    with pytest.raises(Refused):
        acquire(client, heirs[1], Waiting(lambda: None))
    assert live_workers(client) == [heirs[0]]


def test_a_lapsed_lease_is_taken_again_by_its_holder(client: Client) -> None:
    one = own_lease("loader", "one", "")
    held = get(client, one)
    client.call("DEL", key(client, one))
    assert held.renew() is True
    assert live_workers(client) == [one]


def test_a_holder_notices_that_its_name_was_taken_and_takes_nothing_back(client: Client) -> None:
    first, second = own_lease("loader", "one", ""), own_lease("loader", "one", "")
    held = get(client, first)
    client.call("DEL", key(client, first))
    get(client, second)
    before = client.call("PEXPIRE", key(client, second), 500)
    assert before == 1
    assert held.renew() is False
    held.release()
    assert live_workers(client) == [second]
    assert client.call("PTTL", key(client, second)) <= 500


def test_a_name_that_had_a_lease_is_remembered_as_one_of_ours(client: Client) -> None:
    get(client, own_lease("loader", "one", "")).release()
    assert client.call("SMEMBERS", client.topology.leased("loader")) == [b"one"]
