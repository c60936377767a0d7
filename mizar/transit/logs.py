# SPDX-License-Identifier: Apache-2.0
"""Structured log lines: an event's name and fields, through stdlib logging.

Called by every module of this room. A value with spaces is quoted, so that a line can be taken apart again.
"""

import logging
import sys

_FORMAT = "time=%(asctime)s level=%(levelname)s event=%(message)s"


def event(log: logging.Logger, level: int, name: str, **fields: object) -> None:
    """Log one event: `name key=value ...`."""
    if log.isEnabledFor(level):
        log.log(level, " ".join([name, *(f"{key}={_text(value)}" for key, value in fields.items())]))


def _text(value: object) -> str:
    text = str(value)
    if text and text.isprintable() and not any(letter in ' "=' for letter in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def to_stderr(level: int = logging.INFO) -> None:
    """Send the process's log to stderr, one line per event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORMAT, "%FT%T%z"))
    root = logging.getLogger("mizar")
    root.handlers = [handler]
    root.setLevel(level)
    root.propagate = False
