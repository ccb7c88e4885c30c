"""Slots that processes share: real processes, real locks and real deaths. Nobody sleeps; pipes tell what happened."""

from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resilient_llm._errors import ConfigError
from resilient_llm.policies import _shared
from resilient_llm.policies._shared import POLL, Place, SharedSlots

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs POSIX")

BEGIN = """
import os, subprocess, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # since 3.12 Python warns of every fork beside threads
from resilient_llm.policies._shared import SharedSlots
def show(*words): print(*words, flush=True)
slots = SharedSlots("box", 1)
"""
Start = Callable[[str], "subprocess.Popen[str]"]
TAKEN: list[Place] = []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the locks of this test are."""
    with monkeypatch.context() as patched:
        patched.setattr(tempfile, "tempdir", str(tmp_path))
        yield tmp_path / f"resilient_llm-{os.geteuid()}"
    while TAKEN:
        TAKEN.pop().release()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that shares this test's locks."""
    started: list[subprocess.Popen[str]] = []

    def start(script: str) -> subprocess.Popen[str]:
        one = subprocess.Popen(
            [sys.executable, "-c", f"{BEGIN}\n{script}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        started.append(one)
        return one

    yield start
    for one in started:
        one.kill()
        one.communicate()


def says(process: subprocess.Popen[str]) -> str:
    """The next line that it prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def tell(process: subprocess.Popen[str]) -> None:
    """Lets it go on."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def taken(slots: SharedSlots) -> Place:
    """A slot that is known to be free; given back at the end of the test if not before."""
    place = slots.try_take()
    assert place is not None
    TAKEN.append(place)
    return place


HOLD = 'place = slots.try_take(); show("holds" if place else "not"); sys.stdin.readline()'


def test_a_slot_that_one_process_holds_is_taken_for_the_others_until_it_is_given_back(start: Start) -> None:
    holder = start(f"{HOLD}; place.release(); show('gave'); sys.stdin.readline()")
    assert says(holder) == "holds"
    slots = SharedSlots("box", 1)
    assert slots.try_take() is None
    assert taken(SharedSlots("another", 1))
    tell(holder)
    assert says(holder) == "gave"
    mine = taken(slots)
    assert slots.try_take() is None
    mine.release()
    assert taken(slots)


def test_the_kernel_frees_the_slot_of_a_process_that_is_killed(start: Start) -> None:
    holder = start(HOLD)
    assert says(holder) == "holds"
    slots = SharedSlots("box", 1)
    assert slots.try_take() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert taken(slots)


def test_a_child_of_fork_holds_nothing_and_gives_nothing_of_its_parent_back(start: Start) -> None:
    holder = start(
        """
place = slots.try_take()
pid = os.fork()
if pid == 0:
    show("child", place, slots.try_take(), repr(slots).rpartition(", ")[2])
    show(slots.poll())
    place.release()
    os._exit(0)
os.waitpid(pid, 0)
show("parent", place)
show(slots.poll())
sys.stdin.readline()
"""
    )
    assert says(holder) == "child Place(released) None 0 held by this process)"
    polls = {says(holder)}
    assert says(holder) == "parent Place(held)"
    assert len(polls | {says(holder)}) == 2  # they do not look in step
    assert SharedSlots("box", 1).try_take() is None


def test_a_child_that_outlives_its_killed_parent_does_not_keep_the_slot(start: Start) -> None:
    holder = start(
        """
place = slots.try_take()
reading, writing = os.pipe()
if os.fork() == 0:
    os.close(writing)
    show("child")
    os.read(reading, 1)          # until the parent is dead
    sys.stdin.readline()
    os._exit(0)
os.close(reading)
sys.stdin.readline()
"""
    )
    assert says(holder) == "child"
    slots = SharedSlots("box", 1)
    assert slots.try_take() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert taken(slots)


def test_what_a_child_does_first_closes_its_copies_and_leaves_chance_its_own() -> None:
    slots = SharedSlots("box", 1)
    place = taken(slots)
    slots.after_fork()
    assert repr(slots).endswith(" 0 held by this process)")
    assert 0 < slots.poll() <= POLL
    place.release()
    assert taken(SharedSlots("box", 1))  # there was no other copy of it


def test_a_program_that_is_executed_meanwhile_does_not_keep_the_slot(start: Start) -> None:
    holder = start(
        """
place = slots.try_take()
program = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
show("executed")
sys.stdin.readline()
"""
    )
    assert says(holder) == "executed"
    slots = SharedSlots("box", 1)
    assert slots.try_take() is None
    holder.send_signal(signal.SIGKILL)
    holder.wait(10)
    assert taken(slots)


def test_four_workers_of_a_box_with_one_slot_are_never_two_inside(start: Start, tmp_path: Path) -> None:
    workers = [
        start(
            f"""
inside, done = {str(tmp_path / "inside")!r}, 0
sys.stdin.readline()
while done < 100:
    place = slots.try_take()
    if place is None:
        os.sched_yield()
        continue
    os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails if another one is inside
    os.sched_yield()
    os.unlink(inside)
    place.release()
    done += 1
show(done)
"""
        )
        for _ in range(4)
    ]
    for worker in workers:
        tell(worker)
    assert [says(worker) for worker in workers] == ["100"] * 4


def test_there_are_as_many_slots_as_were_said() -> None:
    slots, others = SharedSlots("box", 3), SharedSlots("box", 3)
    places = [taken(slots), taken(others), taken(slots)]
    assert slots.try_take() is None
    assert others.try_take() is None
    places[1].release()
    assert taken(slots)
    assert others.try_take() is None


def test_where_processes_differ_the_largest_number_counts() -> None:
    small, large = SharedSlots("box", 1), SharedSlots("box", 2)
    assert taken(small)
    assert small.try_take() is None
    assert taken(large)
    assert large.try_take() is None


def test_a_slot_is_given_back_once_and_from_any_thread() -> None:
    slots = SharedSlots("box", 1)
    place, start = taken(slots), threading.Barrier(4)
    descriptors = len(os.listdir("/dev/fd"))
    failed: list[BaseException] = []

    def work() -> None:
        start.wait()
        try:
            place.release()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert failed == []
    assert len(os.listdir("/dev/fd")) == descriptors - 1
    second = taken(slots)
    place.release()
    assert slots.try_take() is None
    second.release()


def test_a_slot_that_was_given_back_is_free_though_someone_has_a_copy_of_its_file() -> None:
    slots = SharedSlots("box", 1)
    place = taken(slots)
    copy = os.dup(next(iter(slots._held)))  # what a child keeps that Python did not fork
    place.release()
    assert taken(slots)
    os.close(copy)


def test_looking_again_and_again_leaves_no_descriptor_open() -> None:
    slots, others = SharedSlots("box", 2), SharedSlots("box", 2)
    places = [taken(slots), taken(slots)]
    before = len(os.listdir("/dev/fd"))
    assert [others.try_take() for _ in range(50)] == [None] * 50
    for place in places:
        place.release()
    assert len(os.listdir("/dev/fd")) == before - 2


def test_who_waits_looks_again_within_fifty_milliseconds_and_not_in_step() -> None:
    slots = SharedSlots("box", 1)
    waits = [slots.poll() for _ in range(1000)]
    assert POLL / 5 <= min(waits) < POLL / 4
    assert max(waits) <= POLL == 0.05
    assert len(set(waits)) > 900


def test_the_files_belong_to_the_user_alone_and_are_empty(folder: Path) -> None:
    taken(SharedSlots("box", 1)).release()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [(file.name, file.stat().st_size, file.stat().st_mode & 0o777) for file in folder.iterdir()] == [
        ("box.0", 0, 0o600)
    ]


def test_taking_a_slot_keeps_its_file_young(folder: Path) -> None:
    slots = SharedSlots("box", 1)
    taken(slots).release()
    os.utime(folder / "box.0", (0, 0))
    taken(slots).release()
    assert (folder / "box.0").stat().st_mtime > 1e9


@pytest.mark.parametrize("made_anew", [True, False])
def test_a_file_that_is_deleted_between_opening_and_locking_is_no_slot(
    folder: Path, monkeypatch: pytest.MonkeyPatch, made_anew: bool
) -> None:
    slots, others = SharedSlots("box", 1), SharedSlots("box", 1)
    lock = _shared.fcntl.flock

    def slow(file: int, how: int) -> None:
        monkeypatch.setattr(_shared.fcntl, "flock", lock)
        (folder / "box.0").unlink()
        if made_anew:
            assert taken(others)
        lock(file, how)

    monkeypatch.setattr(_shared.fcntl, "flock", slow)
    assert slots.try_take() is None
    if not made_anew:
        assert taken(slots)  # looking again finds what is there now


def test_a_folder_that_was_deleted_is_made_anew(folder: Path) -> None:
    slots = SharedSlots("box", 1)
    folder.rmdir()
    assert taken(slots)
    assert (folder / "box.0").stat().st_mode & 0o777 == 0o600
    assert SharedSlots("box").try_take() is None


@pytest.mark.parametrize("how", ["open to others", "a link", "a file"])
def test_a_folder_that_others_could_write_to_is_refused(folder: Path, tmp_path: Path, how: str) -> None:
    if how == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    elif how == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    else:
        folder.touch()
    with pytest.raises(ConfigError, match="shared: "):
        SharedSlots("box", 1)


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = os.geteuid() + 1
    monkeypatch.setattr(_shared.os, "geteuid", lambda: other)
    with pytest.raises(ConfigError, match=f"resilient_llm-{other} has to be a folder of this user"):
        SharedSlots("box", 1)


def test_where_the_file_system_fails_a_process_goes_on_alone_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    slots = SharedSlots("box", 1)

    def fails(*arguments: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(_shared.os, "open", fails)
    with caplog.at_level(logging.WARNING, logger="resilient_llm"):
        places = [taken(slots), taken(slots)]
        for place in places:
            place.release()
    assert [one.getMessage() for one in caplog.records] == [
        "the slots 'box' are not shared with other processes: [Errno 24] Too many open files"
    ]


def test_a_system_without_such_locks_is_told_and_what_to_do_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_shared, "fcntl", None)
    with pytest.raises(
        ConfigError, match=r"^shared: this system has no file locks .* \(POSIX has\); give .* Bulkhead\(slots=1\)$"
    ):
        SharedSlots("box", 1)


@pytest.mark.parametrize("name", ["", "../box", "a/b", ".hidden", "x" * 65, "a b", 3, None])
def test_impossible_names_are_refused_and_shown(name: object) -> None:
    with pytest.raises(ConfigError) as caught:
        SharedSlots(name, 1)  # type: ignore[arg-type]
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize("slots", [0, -1, 1.5, True, "2"])
def test_impossible_slots_are_refused_and_shown(slots: object) -> None:
    with pytest.raises(ConfigError, match="slots: "):
        SharedSlots("box", slots)  # type: ignore[arg-type]


def test_its_repr_says_where_the_limit_is(folder: Path) -> None:
    slots = SharedSlots("box", 2)
    place = taken(slots)
    assert repr(slots) == f"SharedSlots('box', 2 in {folder}, 1 held by this process)"
    assert repr(place) == "Place(held)"
    place.release()
    assert repr(place) == "Place(released)"
    assert repr(slots).endswith(" 0 held by this process)")
