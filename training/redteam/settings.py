"""What a red team is told: flags, `HEATWARD_REDTEAM_…` variables and a TOML file, as one frozen pydantic model.

Numbers such as epsilon may be written as fractions: `"8/255"`. `QuickSettings` are the same with a smaller budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from detector.cpus import available_cpus
from training.settings import Fraction, Place

if TYPE_CHECKING:  # values need torch
    from training.redteam.values import Norm

__all__ = ["ALL", "NO_SCORE_BUDGET", "PREFIX", "ROWS", "QuickSettings", "RedTeamSettings"]

PREFIX = "HEATWARD_REDTEAM_"
ALL = "any of them"
"""The line of a row that counts an image where one of its methods succeeds."""
ROWS = {
    0: "oblivious: knows the classifier, not heatward",
    1: "transfer: knows heatward, and attacks a twin of its own",
    2: "score oracle: sees label and p-value",
    3: "decision oracle: sees label and flag",
    4: "white box: has the bundle",
}
"""Access of each row."""
NO_SCORE_BUDGET = 'Square knows L∞ alone: give --linf, or score_methods = ["simba"] in --config'
"""Why row 2 has nothing to do where there are budgets in L2 alone."""
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Row = Annotated[int, Field(ge=0, le=4)]


def _listed(value: Any) -> Any:
    """`"0,1,2"` as a list, and `'["2/255", "4/255"]'`, as JSON and TOML write it."""
    if isinstance(value, str):
        words = (word.strip().strip("\"'") for word in value.strip().strip("[]").split(","))
        return [word for word in words if word]
    return value


def _once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """What is given twice is made and told once."""
    return tuple(dict.fromkeys(values))


Listed = (NoDecode, BeforeValidator(_listed), AfterValidator(_once))
Epsilons = Annotated[tuple[Annotated[Fraction, Field(gt=0)], ...], *Listed]


class RedTeamSettings(BaseSettings):
    """Everything that decides a red team's run."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, env_prefix=PREFIX, env_ignore_empty=True
    )

    images: Place | None = None
    """Photographs that bundle and witness were not made with, one folder a class."""
    out: Place = Path("work/redteam")
    """Folder for finished parts, redteam.json and redteam.html; a killed job goes on from here."""
    rows: Annotated[tuple[Row, ...], Field(min_length=1), *Listed] = tuple(ROWS)
    """Which kinds of access are tried."""
    count: Count = 64
    """Images attacked, of those that the classifier gets right."""
    rate: Rate = 0.05
    """The false-positive rate under which attackers who know heatward want to stay."""
    rates: Annotated[tuple[Rate, ...], Field(min_length=1), *Listed] = (0.01, 0.05, 0.1)
    """Rates at which the figures are counted."""
    linf: Epsilons = (1 / 255, 2 / 255, 4 / 255, 8 / 255, 16 / 255)
    """Budgets: the greatest change of any value, in [0, 1]."""
    l2: Epsilons = ()
    """Budgets: the greatest Euclidean length of the change of pixels in [0, 1]."""
    steps: Annotated[tuple[Count, ...], Field(min_length=1), *Listed] = (100,)
    """Gradient steps of each restart; several are told apart."""
    restarts: Count = 5
    """Of the white box."""
    methods: Annotated[tuple[str, ...], *Listed] = ()
    """White-box attacks by name; none: all."""
    queries: Count = 1000
    """Images that an oracle is asked about, for each image."""
    oracle_linf: Epsilons = ()
    """Budgets of the score oracle, which pays for each anew. Default: those of `linf` from 4/255 to 8/255, or else the
    largest."""
    score_methods: Annotated[tuple[Literal["simba", "square"], ...], *Listed] = ("square", "simba")
    """Attacks on the score oracle."""
    check_images: Count = 20
    """Images of the checks, and detectors that the active test plants an adversarial image in."""
    twin: Place | None = None
    """A bundle of the same classes that was made from other images: the attacker's own."""
    server: str | None = None
    """HOST:PORT of a running server of the same bundle, which oracle attacks ask; none: the bundle itself."""
    token_file: Place | None = None
    """File of the token for that server."""
    tls_roots: Place | None = None
    """Root certificates, PEM, of that server; without them the connection is plain."""
    patience_s: Annotated[float, Field(gt=0)] = 3600.0
    """How long a server may be gone before the job ends; it goes on from there when it is started again."""
    batch_size: Count = 32
    """Images attacked side by side: what a kill can cost."""
    seed: int = 0
    threads: Count | None = None
    """CPU threads of torch. Default: as many as this process may use."""
    device: str = "cpu"
    """`cpu`, `cuda`, `cuda:1`, …"""
    trusted: Annotated[tuple[str, ...], *Listed] = ()
    """Modules that a `python:` classifier of the bundle may come from."""
    fail_if: Annotated[tuple[str, ...], *Listed] = ()
    """Conditions such as `sr5@4/255>.5` that end the command with exit code 1."""

    @model_validator(mode="after")
    def _consistent(self) -> RedTeamSettings:
        for name, given in (("linf", self.linf), ("oracle_linf", self.oracle_linf)):
            if given and max(given) > 1:
                raise ValueError(f'{name}: expected budgets of at most 1, such as "8/255", got {max(given):g}')
        if self.rate not in self.rates:
            known = ", ".join(f"{each:g}" for each in self.rates)
            raise ValueError(f"rate: expected one of rates ({known}), got {self.rate:g}: add it to rates in --config")
        if not self.linf and not self.l2:
            raise ValueError('linf and l2 are empty: give a budget, such as linf = ["8/255"]')
        return self

    @property
    def passed_over(self) -> tuple[str, ...]:
        """Settings that were given, and that none of the rows uses."""
        users = {"twin": {1}, "server": {2, 3}, "token_file": {2, 3}, "tls_roots": {2, 3}}
        return tuple(
            name for name, rows in users.items() if getattr(self, name) is not None and not rows & set(self.rows)
        )

    @property
    def thread_count(self) -> int:
        """CPU threads of torch."""
        return self.threads or available_cpus()

    @property
    def score_linf(self) -> tuple[float, ...]:
        """Budgets of the score oracle in L∞."""
        middle = tuple(eps for eps in self.linf if 3.99 / 255 < eps < 8.01 / 255)
        return self.oracle_linf or middle or tuple(sorted(self.linf)[-1:])

    @property
    def budgets(self) -> tuple[tuple[Norm, float], ...]:
        """Every norm and size."""
        linf: list[tuple[Norm, float]] = [("Linf", eps) for eps in self.linf]
        return (*linf, *(("L2", eps) for eps in self.l2))

    def measured(self, row: int) -> tuple[tuple[Norm, float], ...]:
        """The budgets under which a row has figures."""
        asked: list[tuple[Norm, float]] = [("Linf", eps) for eps in self.score_linf]
        asked += [("L2", eps) for eps in self.l2 if "simba" in self.score_methods]  # Square knows L∞ alone
        if row == 2:
            return tuple(asked)
        if row == 1 and self.twin is None:
            return ()
        return tuple(dict.fromkeys((*self.budgets, *asked))) if row == 0 else self.budgets


class QuickSettings(RedTeamSettings):
    """`--quick`: 5 minutes on two cores with the embedded bundle (docs/results/redteam.md)."""

    count: Count = 24
    linf: Epsilons = (2 / 255, 4 / 255, 8 / 255)
    steps: Annotated[tuple[Count, ...], Field(min_length=1), *Listed] = (30,)
    restarts: Count = 1
    methods: Annotated[tuple[str, ...], *Listed] = ("selective", "lagrangian")
    queries: Count = 250
    score_methods: Annotated[tuple[Literal["simba", "square"], ...], *Listed] = ("square",)
    check_images: Count = 8
    batch_size: Count = 24

    @property
    def score_linf(self) -> tuple[float, ...]:
        """One budget."""
        return super().score_linf[-1:]
