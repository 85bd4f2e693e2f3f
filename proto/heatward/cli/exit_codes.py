"""What `heatward` commands exit with: one table for the commands, for `heatward --help` and for docs/client.md."""

from enum import IntEnum

__all__ = ["ExitCode"]


class ExitCode(IntEnum):
    """An exit code and what it means."""

    meaning: str

    OK = 0, "done; of detect: every image has a verdict, whatever it is"
    FAILED = (
        1,
        "a job or server failed; of health: it does not serve; of detect --exit-code: an image was attacked or patched"
        "; of redteam: a check failed, or a condition of --fail-if holds",
    )
    MISTAKE = 2, "the call, a setting or a file is wrong; of detect: an image has no verdict"
    NOT_PROMOTED = 3, "of retrain: the challenger is not better, the champion stays"
    BUSY = 75, "another job uses the folder: try again later"
    INTERRUPTED = 130, "Ctrl-C (serve drains instead)"
    BROKEN_PIPE = 141, "nobody reads the output any more"
    TERMINATED = 143, "SIGTERM (serve drains instead)"

    def __new__(cls, value: int, meaning: str) -> "ExitCode":
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code
