"""A fair queue: shares are even, short items come first among equals, and none waits for ever."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tokmarg.service.fair_queue import FairQueue


def taken(queue: FairQueue[str], count: int) -> list[str]:
    found = (queue.take(lambda _: True) for _ in range(count))
    return [item[1] for item in found if item is not None]


def queue_of(gone: set[str] | None = None) -> FairQueue[str]:
    return FairQueue(lambda item: item in (gone or ()))


def test_one_row_does_not_wait_for_ten_thousand() -> None:
    queue = queue_of()
    for n in range(10_000):
        queue.push(("bulk", "upload"), 50, f"bulk {n}")
    assert taken(queue, 3) == ["bulk 0", "bulk 1", "bulk 2"]
    queue.push(("single", "request"), 50, "single")
    assert "single" in taken(queue, 2)


def test_a_client_with_many_requests_has_no_more_than_one_with_one() -> None:
    queue = queue_of()
    for n in range(100):
        queue.push(("many", n), 10, f"many {n}")
        queue.push(("one", "request"), 10, f"one {n}")
    assert _shares(taken(queue, 60)) == {"many": 30, "one": 30}


def test_requests_of_one_client_share_its_part() -> None:
    queue = queue_of()
    for n in range(100):
        queue.push(("proxy", "upload"), 10, f"upload {n}")
    taken(queue, 10)
    queue.push(("proxy", "chat"), 10, "chat")
    assert "chat" in taken(queue, 2)


def test_the_short_overtakes_the_long_and_the_long_is_not_forgotten() -> None:
    queue = queue_of()
    queue.push(("a", 0), 1000, "long")
    order = []
    for n in range(200):
        queue.push(("b", n), 10, f"short {n}")
        order += taken(queue, 1)
    assert order[0] == "short 0"
    assert 90 <= order.index("long") <= 110  # where the others had as much as it wants


def test_what_does_not_fit_lets_others_pass() -> None:
    queue = queue_of()
    queue.push(("a", 0), 1, "large")
    queue.push(("b", 0), 5, "small")
    assert queue.take(lambda item: item != "large") == (5, "small")
    assert queue.take(lambda item: item != "large") is None
    assert queue.take(lambda _: True) == (1, "large")


def test_what_is_gone_is_left_out() -> None:
    gone: set[str] = set()
    queue = queue_of(gone)
    for item in "abc":
        queue.push(("x", "y"), 1, item)
    gone |= {"a", "b"}
    assert taken(queue, 3) == ["c"]
    assert queue.next_cost() is None


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(1, 99)), max_size=40))
def test_every_item_comes_once_and_in_the_order_of_its_flow(items: list[tuple[int, int, int]]) -> None:
    queue: FairQueue[tuple[int, int, int]] = FairQueue(lambda _: False)
    for n, (client, request, cost) in enumerate(items):
        queue.push((client, request), cost, (client, request, n))
    found = []
    while (item := queue.take(lambda _: True)) is not None:
        found.append(item[1])
    assert sorted(n for *_, n in found) == list(range(len(items)))
    for flow in {(client, request) for client, request, _ in found}:
        order = [n for client, request, n in found if (client, request) == flow]
        assert order == sorted(order)


def _shares(items: list[str]) -> dict[str, int]:
    names = [item.split()[0] for item in items]
    return {name: names.count(name) for name in names}
