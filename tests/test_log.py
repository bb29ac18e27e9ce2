"""What a run records survives kills, and a full disk ends it with one line instead of a hang or tracebacks."""

import os
from pathlib import Path

import numpy as np
import pytest

from lib.base.errors import UserError
from lib.engine import board
from lib.engine.log import MetricsFile, clock, log_to, logger

FULL = Path("/dev/full")
needs_full_disk = pytest.mark.skipif(not FULL.exists(), reason="only Linux has a disk that is always full")


@pytest.mark.parametrize("is_due, kept", [(False, [1, 2, "score 2"]), (True, [1, 2])])
def test_rewound_metrics_lose_what_is_written_again(tmp_path, is_due, kept):
    metrics = MetricsFile(tmp_path / "metrics.jsonl", "miou")
    for row in ({"iter": 1}, {"iter": 2}, {"iter": 2, "miou": 0.5}, {"iter": 3}):
        metrics.append(row)
    with metrics.path.open("a") as file:
        file.write('{"iter": 4, "los')
    metrics.rewind(2, validation_is_due=is_due)
    content = metrics.path.read_text()
    rows = {1: '{"iter": 1}\n', 2: '{"iter": 2}\n', "score 2": '{"iter": 2, "miou": 0.5}\n'}
    assert content == "".join(rows[name] for name in kept)


@pytest.mark.parametrize(
    "row", ["7", "null", "[]", '"iter"', "{}", '{"iter": null}', '{"iter": "3"}', '{"iter": 1.5}', '{"iter": true}']
)
def test_a_row_that_no_run_wrote_is_named_and_nothing_is_lost(tmp_path, row):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"iter": 1}}\n{row}\n{{"iter": 2}}\n')
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"line 2 of .*metrics\.jsonl is no row of a run"):
        MetricsFile(path, "miou").rewind(2, validation_is_due=False)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", [b"\0" * 4096, b"\xff\xfe", b"[" * 100_000, b'{"iter": ' + b"1" * 9999 + b"}", b""])
def test_a_line_that_a_crash_damaged_is_dropped(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"iter": 1}\n' + line + b'\n{"iter": 2, "name": "\xe2\x80\xa8"}')
    MetricsFile(path, "miou").rewind(2, validation_is_due=False)
    assert path.read_bytes() == b'{"iter": 1}\n{"iter": 2, "name": "\xe2\x80\xa8"}\n'


def test_metrics_that_are_no_file_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(UserError, match=r"metrics\.jsonl is no regular file"):
        MetricsFile(tmp_path / "metrics.jsonl", "miou").rewind(2, validation_is_due=False)


@needs_full_disk
def test_metrics_on_a_full_disk_name_their_file():
    with pytest.raises(UserError, match="cannot write /dev/full: No space left on device"):
        MetricsFile(FULL, "miou").append({"iter": 1})


@needs_full_disk
def test_events_on_a_full_disk_name_their_file_and_can_be_closed(tmp_path, monkeypatch, capfd):
    events = board.Board(tmp_path, first_iteration=1)
    events.records.close()
    events.records = board.RecordWriter(str(FULL))
    with pytest.raises(UserError, match=r"cannot write .*events\.out\.tfevents.*: No space left on device"):
        events.picture("val/scene", np.zeros((4, 4, 3), np.uint8), 2)
    events.close()
    del events
    assert capfd.readouterr().err == ""


@needs_full_disk
def test_a_log_on_a_full_disk_keeps_quiet_and_hides_no_error(capfd):
    with pytest.raises(UserError, match="what it is about"), log_to(FULL):
        logger.info("a line")
        raise UserError("what it is about")
    captured = capfd.readouterr()
    assert "a line" in captured.out and captured.err == ""


def test_time_left_is_shown_in_hours_minutes_and_seconds():
    assert [clock(seconds) for seconds in (0, 59.6, 3599, 3661, 90_000)] == [
        "0:00:00", "0:01:00", "0:59:59", "1:01:01", "25:00:00",
    ]  # fmt: skip


def test_a_log_that_is_no_file_is_refused_without_a_wait(tmp_path):
    os.mkfifo(tmp_path / "log.txt")
    with pytest.raises(UserError, match=r"the log .*log\.txt is no regular file"), log_to(tmp_path / "log.txt"):
        pass
