"""A search that finds no room says so, loses nothing, and goes on when there is some."""

from __future__ import annotations

import os
import resource
import subprocess

import pytest
from nas.toys import Recorded
from nas.workers import FORK, search_in
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search import lifesigns
from search.outages import RecordError

EVALUATIONS = 12


@pytest.fixture
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(lifesigns, "UNSIGNED", 0.2)  # there may be room for a trial, but not for its signature
    return tmp_path / "asked"


@pytest.fixture
def disk(tmp_path):
    """A small disk, and how to make it so large."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *more):
        options = ",".join([f"size={size}k", *more])
        return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True)

    if os.geteuid() != 0 or mount(4).returncode != 0:
        pytest.skip("only root may mount a small disk, and not in every container")
    yield folder, lambda size: mount(size, "remount").check_returncode()
    subprocess.run(["umount", folder], check=True)


def fails_for_want_of_room(storage, log):
    """A search that stops; returns the evaluation that it may cost."""
    with pytest.raises(RecordError, match=r"no room to record .* Make room .* same call") as raised:
        search_in(storage, log, EVALUATIONS)
    assert str(storage) in str(raised.value)
    return Recorded(log).asked[-1:] if log.exists() else []


def with_files_below(size, storage, log):
    """The same in a process that must not write more than so many bytes to a file."""

    def run():
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        says.send(fails_for_want_of_room(storage, log))

    hears, says = FORK.Pipe(duplex=False)
    process = FORK.Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode == 0
    return hears.recv()


def goes_on(storage, log, unlucky):
    """With room, to the end; nothing is done again but what could not be recorded."""
    done = len(Recorded(log).asked)
    assert done > 2
    result = search_in(storage, log, EVALUATIONS)
    assert len({point.candidate for point in result.points}) == len(result.points) == EVALUATIONS
    asked = Recorded(log).asked
    again = [plan for number, plan in enumerate(asked) if plan in asked[:number]]
    assert len(asked) == EVALUATIONS + len(again)
    assert len(again) == len(set(again))
    assert set(again) <= set(unlucky)


@pytest.mark.parametrize(
    ("file", "sizes"), [("search.journal", (200, 5000, 7000, 12000)), ("search.db", (50_000, 150_000, 300_000))]
)
def test_files_that_must_not_grow(file, sizes, tmp_path, log):
    storage = tmp_path / file
    unlucky = [plan for size in sizes for plan in with_files_below(size, storage, log)]
    goes_on(storage, log, unlucky)


@pytest.mark.parametrize(("file", "sizes"), [("search.journal", (4, 8, 12)), ("search.db", (8, 300, 450))])
def test_a_full_disk(file, sizes, disk, log):
    """In one process, as in a notebook: what was left open is known to be so at once."""
    folder, enlarge = disk
    unlucky = []
    for size in sizes:
        enlarge(size)
        unlucky += fails_for_want_of_room(folder / file, log)
    enlarge(20_000)
    goes_on(folder / file, log, unlucky)


def test_half_a_line_is_removed_by_the_next_writer(tmp_path, log):
    storage = tmp_path / "search.journal"
    search_in(storage, log, 4)
    whole = storage.read_bytes()
    storage.write_bytes(whole + b'{"op_code":8,"worker_id":"0f')
    assert len(search_in(storage, log, 6).points) == 6
    assert storage.read_bytes().startswith(whole + b'{"op_code"')
    assert len(search_in(storage, log, 6).points) == len(Recorded(log).asked) == 6
    assert JournalStorage(JournalFileBackend(str(storage))).get_all_studies()  # Optuna's own reader agrees
