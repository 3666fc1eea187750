"""The log: text for people, or one object of JSON a line."""

import io
import json
from datetime import datetime

import pytest

from lit_od.serving.log import Log
from lit_od.serving.models import Model
from tests.support.site import running


def test_text_has_the_message_alone(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.say("event", "a\nb \x1b[31m \udcff", {"field": 1})
    log.note("request", "not for people", {})
    assert capsys.readouterr().err == "lit-od: a\\nb \\x1b[31m \\udcff\n"


def test_json_has_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log("json")
    log.say("event", "a\nb \udcff", {"field": 1}, level="warning")
    log.note("request", "for programs", {"status": None})
    first, second = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert datetime.fromisoformat(first.pop("time")).tzinfo is not None
    assert first == {"level": "warning", "event": "event", "message": "a\nb \\udcff", "field": 1}
    assert (second["level"], second["event"], second["status"]) == ("info", "request", None)


def test_who_reads_the_log_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr("sys.stderr", closed)
    Log().say("event", "lost")


def test_a_request_is_a_line(model: Model, pictures: list[bytes], capfd: pytest.CaptureFixture[str]) -> None:
    with running([model], log=Log("json")) as site:
        assert site.ask("/score?model=digits", pictures[0], headers={"authorization": "Bearer secret"}).status == 200
        assert site.ask("/v2/models/x%1b").status == 404
    text = capfd.readouterr().err
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [[line[name] for name in ("method", "path", "status")] for line in lines if line["event"] == "request"]
    assert requests == [["POST", "/score", 200], ["GET", "/v2/models/x\x1b", 404]]
    assert all(line["seconds"] > 0 for line in lines if line["event"] == "request")
    assert "secret" not in text
