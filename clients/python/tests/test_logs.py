"""`tenantd logs` reads what the client's formatter writes."""

import json
import logging
import subprocess

import pytest

import tenantd
from tenantd import logs

from support import BINARY

pytestmark = pytest.mark.server


def chosen(path, *arguments):
    """The lines that the command passes on."""
    command = [BINARY, "logs", path, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_command_line_filters_the_clients_json_lines(server, tmp_path):
    path = tmp_path / "agent.log"
    logger = logging.getLogger("test_logs.agent")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    handler = logging.FileHandler(path)
    logger.addHandler(handler)
    logs.install(json=True, logger=logger)
    with tenantd.connect_sync(server.address) as td:
        with td.session("log-a", tenant="acme", agent_name="desk"):
            logger.info("hello %s", "acme")
            logger.warning("slow", extra={"seconds": 3})
        with td.session("log-b", tenant="globex"):
            try:
                raise ValueError("two\nlines")
            except ValueError:
                logger.exception("broke")
    logger.info("outside")
    logger.removeHandler(handler)
    handler.close()

    def messages(*arguments):
        return [json.loads(line)["message"] for line in chosen(path, *arguments)]

    assert messages("--tenant", "acme") == ["hello acme", "slow"]
    assert messages("--tenant", "globex") == ["broke"]
    assert messages("--session", "log-a", "--level", "warn") == ["slow"]
    assert messages("--agent", "desk") == ["hello acme", "slow"]
    assert messages("--level", "error") == ["broke"]
    assert messages() == ["hello acme", "slow", "broke", "outside"]
    (line,) = chosen(path, "--tenant", "acme", "--level", "warn", "--human")
    assert line.endswith("WARN tenant=acme session_id=log-a agent_name=desk slow"), line
