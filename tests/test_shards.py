"""Shards: how films are cut into them, how a crew gets them, and how cores are shared among its workers."""

import pytest

from pneumoscope.errors import BusyError, CloudError
from pneumoscope.score import dispatch
from pneumoscope.score.archive_scoring import Resources
from pneumoscope.score.dispatch import Dispatcher, Event
from pneumoscope.score.listing import Entry
from pneumoscope.score.shards import Shard, cut
from scoring import (
    Interrupting,
)


@pytest.mark.parametrize("films", [2, 3, 5, 100, 2000])
def test_shards_have_about_the_number_of_films(films: int) -> None:
    entries = [Entry(f"{number:07}.png", 1, "") for number in range(100 * films)]
    sizes = [len(group) for group in cut(entries, films)]
    assert sum(sizes) == len(entries)
    assert 0.75 * films < len(entries) / len(sizes) < 1.25 * films
    assert all(films // 2 <= size <= films * 5 // 2 for size in sizes[:-1])


def test_an_added_film_changes_at_most_three_shards() -> None:
    entries = [Entry(f"{number:06d}.jpeg", 1, "1") for number in range(5000)]
    before = {tuple(group) for group in cut(entries, 100)}
    assert sum(map(len, before)) == 5000
    assert all(50 <= len(group) <= 250 for group in before if group[-1] != entries[-1])
    changed = [*entries[:2000], Entry("001999a.jpeg", 1, "1"), *entries[2000:]]
    after = {tuple(group) for group in cut(changed, 100)}
    assert len(after - before) <= 3


class ScriptedCrew:
    """A crew of one worker that reports what a script says."""

    def __init__(self, *script: Event) -> None:
        self.script = [Event(worker=1, kind="ready"), *script]
        self.given: list[str] = []

    def wait(self, _seconds: float) -> list[Event]:
        return [self.script.pop(0)] if self.script else []

    def give(self, _worker: int, shard: Shard) -> None:
        self.given.append(shard.name)

    def dismiss(self, _worker: int) -> None:
        pass

    def close(self) -> None:
        pass


def one_shard() -> Shard:
    return next(iter([Shard(name="a", source=0, films=3, packed=b"")]))


def test_a_busy_place_is_tried_again_and_a_denial_is_not() -> None:
    busy = Event(worker=1, kind="failed", error=BusyError("busy."))
    crew, listener = ScriptedCrew(busy, Event(worker=1, kind="done")), Interrupting(99, lambda: None)
    outcome = Dispatcher(crew, [one_shard()], listener).run()
    assert (crew.given, outcome.lost) == (["a", "a"], 1)
    assert listener.films == 3
    assert listener.lines == ["busy; its shard of 3 films is given out again"]
    denied = ScriptedCrew(Event(worker=1, kind="failed", error=CloudError("denied.")))
    with pytest.raises(CloudError, match="denied"):
        Dispatcher(denied, [one_shard()], listener).run()


def test_a_shard_that_a_second_worker_has_is_not_given_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_SLOW_SECONDS", 0.0)
    monkeypatch.setattr(dispatch, "_SLOW", 0.0)
    shards = [Shard(name=name, source=0, films=3, packed=b"") for name in "ab"]
    crew = ScriptedCrew(
        Event(worker=1, kind="done"),  # of shard a; then b is slow, and worker 2 gets it, too
        Event(worker=2, kind="ready"),
        Event(worker=1, kind="lost", why="gone"),
        Event(worker=2, kind="done"),
    )
    listener = Interrupting(99, lambda: None)
    outcome = Dispatcher(crew, shards, listener).run()
    assert (crew.given, outcome.lost, listener.lines) == (["a", "b", "b"], 0, [])
    assert listener.films == 6


def test_resources_are_shared_out() -> None:
    assert Resources(cores=2).share(40) == (2, 1)
    assert Resources(cores=2).share(1) == (1, 2)
    assert Resources(cores=1, threads=4).share(9) == (1, 4)
