"""``metrics.jsonl``: appended line by line, cut back on resume."""

from __future__ import annotations

from pathlib import Path

import pytest

from geopeft_cli.reports.records import MetricsLog, read_records


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.jsonl"
    lines = MetricsLog(path)
    for epoch in range(3):
        lines.write({"epoch": epoch, "loss": 1 / (epoch + 1)})
    return path


def test_one_line_a_record(log: Path) -> None:
    assert log.read_text().splitlines()[1] == '{"epoch": 1, "loss": 0.5}'
    assert [record["epoch"] for record in read_records(log)] == [0, 1, 2]


def test_a_new_log_begins_empty(log: Path) -> None:
    MetricsLog(log)
    assert log.read_text() == ""


@pytest.mark.parametrize("first", [0, 1, 2, 3])
def test_going_on_drops_what_will_be_done_again(log: Path, first: int) -> None:
    MetricsLog.append(log, {"finished": True})
    lines = MetricsLog(log, first)
    assert [record["epoch"] for record in read_records(log)] == list(range(first))
    lines.write({"epoch": first})
    assert read_records(log)[-1] == {"epoch": first}


def test_a_last_line_that_was_cut_off_is_left_out(log: Path) -> None:
    with log.open("a") as file:
        file.write('{"epoch": 3, "lo')
    assert len(read_records(log)) == 3
    MetricsLog(log, 3).write({"epoch": 3})
    assert [record["epoch"] for record in read_records(log)] == [0, 1, 2, 3]
