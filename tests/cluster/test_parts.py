"""The parts of a cluster test that need no cluster: the timeline and the programs. They are part of `make test`."""

from __future__ import annotations

import os
import sys
import xml.etree.ElementTree as ET

import psutil
import pytest

from .cluster import Try
from .programs import ClusterError, Program, has_ended, kill
from .services import start_redis
from .timeline import Timeline, as_svg

TAKEN_OVER = Timeline(
    "upsert",
    [
        Try("worker-1", 0, 1, "failed", 10, 100.0, 130.0),
        Try("worker-2", 1, 1, "success", 11, 100.0, 150.0),
        Try("worker-2", 0, 2, "success", 12, 131.0, 160.0),
        Try("worker-2", 2, 1, "success", 13, 150.0, 200.0),
    ],
    dead_worker="worker-1",
    killed_s=110.0,
    notes=["Task 00 was resumed."],
)


def test_a_timeline_shows_who_held_what_when_one_died_and_what_was_taken_over():
    lines = TAKEN_OVER.as_text().splitlines()
    assert lines[0] == "upsert: 100 s"
    assert lines[1] == "  worker-1  |00xxxxxxxx"
    assert lines[2].startswith("  worker-2  |01" + "=" * 48 + "02=")
    assert lines[3].rstrip("#").rstrip() == "  worker-2  |" + " " * 31 + "00"
    assert lines[4].index("^") == lines[1].index("00") + 10
    assert lines[-1] == "  Task 00 was resumed."


def test_a_timeline_is_a_picture():
    root = ET.fromstring(as_svg([TAKEN_OVER, TAKEN_OVER]))  # noqa: S314 - our own
    classes = [element.get("class") for element in root.iter("{http://www.w3.org/2000/svg}rect")]
    assert sorted(classes[4:]) == sorted(["killed", "unnoticed", "first", "first", "resumed"] * 2)


def test_a_killed_program_leaves_only_what_it_is_to_leave(tmp_path):
    program = Program(
        "parent", ["sh", "-c", "sleep 60 & sleep 60 & echo started; wait"], logs=tmp_path, environment=os.environ
    )
    family = []
    try:
        program.wait_until_ready(lambda: "started" in program.log.read_text())
        family = program.family()
        orphan = family[-1]
        assert len(family) == 3
        program.kill(leave=[orphan])
        psutil.wait_procs(family[:-1], timeout=30)
        assert [has_ended(process) for process in family] == [True, True, False]
    finally:
        program.kill()
        kill(family)


def test_a_program_that_ends_at_its_start_is_an_error_with_its_log(tmp_path):
    command = [sys.executable, "-c", "raise SystemExit('no disk')"]
    program = Program("broken", command, logs=tmp_path, environment=os.environ)
    with pytest.raises(ClusterError, match=r"(?s)broken has ended.*no disk"):
        program.wait_until_ready(lambda: False)


def test_a_package_that_is_missing_is_an_error_that_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterError, match="apt-get install postgresql redis-server"):
        start_redis(tmp_path, tmp_path, 0)
