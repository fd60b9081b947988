"""Tags every log record with tenant, session and agent."""

from __future__ import annotations

import json
import logging
from typing import Any

from tenantd import context

TAGS = ("tenant", "session_id", "agent_name")
"""The same names as in the sidecar's logs, metrics and spans."""

_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", *TAGS}


class TenantFilter(logging.Filter):
    """Puts `tenant`, `session_id` and `agent_name` on each record, None outside a
    session. Give it to handlers, not loggers: a logger's filter does not see the
    records of its children."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Never drops a record; keeps tags that the caller gave with `extra`."""
        binding = context.current()
        for tag in TAGS:
            if not hasattr(record, tag):
                setattr(record, tag, getattr(binding, tag) or None if binding else None)
        return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, tags, `extra`, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S") + f".{int(record.msecs):03d}",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update({tag: value for tag in TAGS if (value := getattr(record, tag, None))})
        line.update({k: v for k, v in record.__dict__.items() if k not in _OWN})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def install(*, json: bool = False, logger: logging.Logger | None = None) -> None:
    """Tags the records of every handler of `logger` (default: the root logger),
    and makes one for stderr where there is none. `json`: one JSON object a line.

    Call it after your own logging set-up; a second call changes nothing more.
    """
    target = logging.getLogger() if logger is None else logger
    if not target.handlers:
        target.addHandler(logging.StreamHandler())
    for handler in target.handlers:
        if not any(isinstance(known, TenantFilter) for known in handler.filters):
            handler.addFilter(TenantFilter())
        if json:
            handler.setFormatter(JsonFormatter())
        elif handler.formatter is None:
            handler.setFormatter(
                logging.Formatter(
                    "%(asctime)s %(levelname)s %(name)s tenant=%(tenant)s "
                    "session_id=%(session_id)s %(message)s"
                )
            )
