"""The nightly retraining as a Prefect flow: `heatward retrain … --json` as a process, its exit code as a state.

    python deploy/prefect/nightly.py store detector.toml                              # every night at 3, from here
    python deploy/prefect/nightly.py store detector.toml --records recorded --once    # now, once

Prefect may be installed in an environment of its own: it starts the command `heatward`, or what HEATWARD names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

PROMOTED, STAYS, MISTAKE = 0, 3, 2


class JobError(Exception):
    """The job failed; `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"heatward retrain ended with {code}: its log above has the reason")
        self.code = code


async def worth_another_try(task: Task[..., Any], run: TaskRun, state: State[Any]) -> bool:
    """Whether the job may end otherwise next time: it goes on where it was; a wrong setting stays wrong."""
    failure = await state.aresult(raise_on_failure=False)
    return not (isinstance(failure, JobError) and failure.code == MISTAKE)


@task(retries=3, retry_delay_seconds=600, retry_condition_fn=worth_another_try)
def retrain(words: list[str]) -> dict[str, Any]:
    """Run the job; returns what it says of champion and comparison."""
    log = get_run_logger()
    command = [os.environ.get("HEATWARD", "heatward"), "retrain", *words, "--json"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:  # a pipe may fill up while the log is read
        with subprocess.Popen(command, stdout=told, stderr=subprocess.PIPE, text=True) as job:
            for line in job.stderr or ():  # lines of JSON, one after another
                log.info(line.rstrip())
        if job.returncode not in (PROMOTED, STAYS):
            raise JobError(job.returncode)
        told.seek(0)
        found: dict[str, Any] = json.load(told)
    return found


@flow(name="heatward-retrain")
def nightly(store: str, config: str, records: str | None = None) -> str:
    """One night: retrain, and say what became of it. That the champion stays is no failure."""
    words = ["--champion", store, "--config", config, *(["--records", records] if records else [])]
    told = retrain(words)
    became = "a new champion" if told["comparison"]["promoted"] else "the champion stays"
    said = f"{became}: {'; '.join(told['comparison']['reasons'])} ({told['report']})"
    get_run_logger().info(said)
    return said


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("store")
    parser.add_argument("config")
    parser.add_argument("--records")
    parser.add_argument("--once", action="store_true", help="now, and not every night")
    given = vars(parser.parse_args())
    if given.pop("once"):
        nightly(**given)
    else:
        nightly.serve(name="nightly", cron="0 3 * * *", parameters=given)
