"""``metrics.jsonl``: one JSON object a line, one line an epoch, and one at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from geopeft_cli.storage import explained, new_file


class MetricsLog:
    """Appends records to a file; a resumed run first drops what it will do again.

    Args:
        path: the file.
        first_epoch: records of this and later epochs are dropped, and the record of the end.
    """

    def __init__(self, path: Path, first_epoch: int = 0) -> None:
        self.path = path
        kept = [r for r in read_records(path) if "epoch" in r and r["epoch"] < first_epoch] if path.is_file() else []
        with new_file(path) as partial:
            partial.write_text("".join(_line(record) for record in kept), encoding="utf-8")

    def write(self, record: dict[str, Any]) -> None:
        self.append(self.path, record)

    @staticmethod
    def append(path: Path, record: dict[str, Any]) -> None:
        """Add a record to a log that is complete otherwise."""
        with explained(path), path.open("a", encoding="utf-8") as file:
            file.write(_line(record))


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; a last line that was cut off by a kill is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def _line(record: dict[str, Any]) -> str:
    return json.dumps(record) + "\n"
