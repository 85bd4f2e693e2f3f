from __future__ import annotations

import json
import logging

from server.logs import JsonFormatter


def test_a_record_is_one_json_line_with_its_extras_and_traceback():
    try:
        raise ValueError("two\nlines")
    except ValueError as error:
        record = logging.getLogger("heatward.test").makeRecord(
            "heatward.test",
            logging.ERROR,
            __file__,
            1,
            "it %s",
            ("failed",),
            (type(error), error, error.__traceback__),
            extra={"request_id": "r-1"},
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    content = json.loads(line)
    assert (content["message"], content["level"], content["request_id"]) == ("it failed", "error", "r-1")
    assert "two\nlines" in content["traceback"]
