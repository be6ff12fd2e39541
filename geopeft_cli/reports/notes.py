"""Warnings of the library as lines for people."""

from __future__ import annotations

import logging
import sys


class Notes(logging.Handler):
    """Log records as lines ``warning: text`` on the stderr of the moment."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {record.getMessage()}", file=sys.stderr)
