"""Every setting of the server: one frozen, validated `ServerConfig`. `server.load` reads it from outside."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from detector.cpus import available_cpus
from detector.images import ImageLimits
from detector.load import SECRET
from server.addresses import without_brackets

__all__ = ["PREFIX", "ServerConfig"]

PREFIX = "HEATWARD_SERVE_"
DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
UPSTREAM = re.compile(r"(?!https?://)[^\s@]+")
CPUS = available_cpus()
MIB = 2**20
INT32 = 2**31 - 1


def _split(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            raise ValueError("expected words with commas between: a,b") from None
    return [word for each in value.split(",") if (word := each.strip())]


def _device(name: str) -> str:
    if not DEVICE.fullmatch(name):
        raise ValueError("expected auto, cpu, cuda, or cuda:1 and so on")
    return name


def _keys(files: tuple[Path, ...]) -> tuple[Path, ...]:
    if not files or Path() in files:
        raise ValueError("expected files of public keys, none came, or an empty name: name them, or leave it out")
    return files


# In the environment and on the command line: JPEG,PNG. In the file: ["JPEG", "PNG"].
Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
Formats = Annotated[tuple[Literal["JPEG", "PNG", "WEBP"], ...], NoDecode, BeforeValidator(_split)]
Devices = Annotated[tuple[Annotated[str, AfterValidator(_device)], ...], NoDecode, BeforeValidator(_split)]
Keys = Annotated[Annotated[tuple[Path, ...], AfterValidator(_keys)] | None, NoDecode, BeforeValidator(_split)]
Channels = Annotated[tuple[float, ...], NoDecode, BeforeValidator(_split)]  # one number, or one each for R, G and B


class ServerConfig(BaseSettings):
    """Settings of `heatward serve`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_parse_none_str="null",
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        allow_inf_nan=False,
    )

    bundle: CliPositionalArg[Path | None] = Field(
        None,
        description="the detector: a .heatward file or folder, the URL of a file, such as s3://bucket/my.heatward, "
        "or a folder of bundles, of which the one serves that its champion.json names, or the last by name (hidden "
        "names are passed over); null: the embedded CIFAR-10 detector",
    )
    canary: Path | None = Field(
        None,
        description="a second bundle that answers a share of the requests; what it cannot do (a small rate, patches) "
        "the current one answers",
    )
    canary_weight: float = Field(0.05, ge=0, le=1, description="that share")
    shadow: Path | None = Field(
        None, description="a bundle on trial: it judges what others answered, unseen, and a metric compares"
    )
    watch_s: float = Field(
        0.0,
        ge=0,
        description="how often to look whether the bundles' files have changed, and are as they were a look before; 0: "
        "only on SIGHUP or Reload",
    )
    allow_other_classifier: bool = Field(
        False,
        description="take in bundles for another classifier, or with other classes, than the current one's: by reload, "
        "as canary or as shadow",
    )
    bundle_keys: Keys = Field(
        None,
        description="files of public Ed25519 keys in PEM; only bundles that one of them signed are served; read again "
        "with each bundle; null: signed or not, all are",
    )
    admin: bool = Field(False, description="serve heatward.v1.AdminService: Reload, ListVersions")
    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 or [::] opens the server to the network")
    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0 picks a free one")
    tls_certificate: Path | None = Field(
        None, description="PEM file with the server's certificate chain; followed when it changes; null: no TLS"
    )
    tls_key: Path | None = Field(None, description="PEM file with its private key; required with tls_certificate")
    tls_client_ca: Path | None = Field(
        None, description="PEM file of authorities; clients must show a certificate that one of them signed (mTLS)"
    )
    token_file: Path | None = Field(
        None,
        description="file of callers, `name token [images_per_second] [disclosure]` a line; calls must show one of the "
        "tokens; followed when it changes",
    )
    disclosure: Literal["full", "verdict", "none"] = Field(
        "full",
        description="how much callers are told whose line names none: full; verdict: attacked or not; none: what the "
        "classifier says, as if nothing were judged",
    )
    keepalive_s: float = Field(
        60.0,
        ge=1,
        description="how often a connection is checked for life; clients may do so every 5 s, or twice as often",
    )
    max_connection_age_s: float | None = Field(
        1800.0, gt=0, description="clients then connect anew, and find new servers; null: never"
    )
    max_connection_age_grace_s: float | None = Field(
        None, gt=0, description="how long calls on an old connection may still take; null: as long as they need"
    )
    max_concurrent_streams: int = Field(
        1024, ge=1, le=INT32, description="most calls on one connection; clients hold more back"
    )
    compression: Literal["none", "deflate", "gzip"] = Field(
        "none", description="of answers; requests may be compressed either way"
    )
    metrics_port: int | None = Field(
        9090,
        ge=0,
        le=65535,
        description="port of the Prometheus endpoint /metrics; 0: a free one, null: off",
    )
    device: Devices = Field(
        ("auto",),
        min_length=1,
        description="cpu, cuda, cuda:1 …; with several, each has an engine behind the one queue; auto: every CUDA "
        "device, else the CPU",
    )
    threads: int = Field(
        max(1, CPUS - 1),
        ge=1,
        le=4096,
        description="threads of the model on the CPU; leave a core for decoding and the network",
    )
    decode_workers: int = Field(
        min(4, CPUS),
        ge=1,
        le=64,
        description="threads that decode and resize images",
    )
    trusted: Words = Field(
        (), description="Python modules that a bundle's classifier may be built from, and HOST:PORT it may be asked at"
    )

    max_batch: int = Field(32, ge=1, le=INT32, description="most images that the model sees at once")
    linger_ms: float = Field(0.0, ge=0, le=1000, description="how long an idle engine waits for a fuller batch")
    batch_goal_ms: float = Field(
        500.0, gt=0, description="longest that a batch should take, but for one of a hundred; batches adapt to it"
    )
    queue_items: int = Field(512, ge=1, description="most images waiting; one more is refused with RESOURCE_EXHAUSTED")
    queue_bytes: int = Field(512 * MIB, ge=1, description="what they may weigh together, as sent and decoded")
    in_flight_per_call: int = Field(64, ge=1, description="most images of one call worked on at once")
    images_per_call: int = Field(1024, ge=1, le=INT32, description="most images in one DetectBatch")
    default_deadline_s: float = Field(30.0, gt=0, description="deadline of a call that sends none")
    drain_grace_s: float = Field(20.0, ge=0, description="after SIGTERM, how long work in flight may still take")

    false_positive_rate: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="share of clean images flagged where a request names no rate; null: 0.01, or 0.05 where too few "
        "calibration images can promise that",
    )
    max_image_bytes: int = Field(20 * MIB, ge=1, le=INT32, description="largest image file or raw tensor")
    max_image_pixels: int = Field(
        50_000_000, ge=1, le=INT32, description="largest height x width, read before decoding"
    )
    image_formats: Formats = Field(("JPEG", "PNG", "WEBP"), min_length=1, description="formats accepted")
    max_message_bytes: int = Field(64 * MIB, ge=1024, le=INT32, description="largest gRPC message")

    upstream: str | None = Field(
        None, description="host:port of a KServe v2 server to stand in front of (guard mode); null: off"
    )
    upstream_model: str | None = Field(
        None, validate_default=True, description="its model that is guarded; required with upstream"
    )
    upstream_ca: Path | None = Field(
        None, description="PEM file of the authorities that upstream's TLS certificate may come from; null: no TLS"
    )
    upstream_pass_authorization: bool = Field(
        False, description="hand the callers' authorization header on to upstream"
    )
    upstream_input: str | None = Field(None, description="input that holds the images; null: the only one")
    upstream_layout: Literal["auto", "nhwc", "nchw"] = Field(
        "auto", description="order of its dimensions; auto: the channels are where 1 or 3 stands"
    )
    upstream_scale: float = Field(
        1.0, gt=0, description="what white is in a floating-point input before mean and std: 1, or 255"
    )
    upstream_mean: Channels = Field((0.0,), description="what clients subtract from it: one number, or for R,G,B")
    upstream_std: Channels = Field((1.0,), description="what they divide it by afterwards: one number, or for R,G,B")
    upstream_output: str | None = Field(
        None, description="output of labels or scores that policy replace corrects; null: the only one"
    )
    guard_policy: Literal["annotate", "reject", "replace"] = Field(
        "annotate",
        description="an attacked image: annotate its answer, reject the call, or replace the label in its answer",
    )
    guard_failure: Literal["open", "closed"] | None = Field(
        None,
        description="images without a verdict: open passes upstream's answer on, closed refuses it as UNAVAILABLE; "
        "null: open for annotate, else closed",
    )
    guard_timeout_ms: int | None = Field(
        None, ge=0, description="how long upstream's answer may wait for the verdict; null: until the deadline"
    )
    guard_streams: Literal["refuse", "pass"] = Field(
        "refuse", description="ModelStreamInfer, which is not judged: refuse it, or pass it on to any model"
    )

    record_folder: Path | None = Field(
        None, description="folder where a sample of what is answered is recorded (extra record); null: nothing is"
    )
    record_share: float = Field(1.0, ge=0, le=1, description="share of the images that are recorded, drawn by chance")
    record_images: bool = Field(False, description="record the images, too: see the note on privacy in docs/records.md")
    record_evidence: bool = Field(False, description="record what the heatmap network read of them, too")
    record_max_bytes: int = Field(
        10 * 2**30, ge=MIB, description="what all records may weigh; beyond it the oldest are removed"
    )
    record_max_age_days: float | None = Field(
        30.0, gt=0, description="records that are older are removed; null: none for its age"
    )
    record_labellers: Words = Field(
        (), description="names of tokens that may label recorded images; empty: whoever may call"
    )

    events: Path | None = Field(
        None,
        description="file that gets a line of JSON for each flagged image, and for each alert of query_alerts, an OCSF "
        "Detection Finding; null: none does",
    )
    events_chain: bool = Field(
        False, description="each event names the sha256 of the one before, for `heatward events verify`"
    )
    quarantine: Path | None = Field(
        None, description="folder where flagged images are kept as records (extra record); null: none are"
    )
    quarantine_days: float | None = Field(
        30.0, gt=0, description="images in quarantine that are older are removed; null: none for its age"
    )

    query_alerts: bool = Field(
        False, description="warn where a client's images resemble each other as an attack's queries do"
    )
    query_window: int = Field(
        1000, ge=100, le=100_000, description="images of a client that a new one is compared with, 270 bytes for each"
    )
    query_clients: int = Field(
        256, ge=1, le=100_000, description="clients that are remembered; who has not called for longest is forgotten"
    )
    query_video: bool = Field(True, description="excuse images that move on, as video does; false is harder to evade")
    query_exempt: Words = Field((), description="names of tokens whose images are not compared")

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="info logs every call; warning only what went wrong"
    )
    otlp_endpoint: str = Field(
        "",
        pattern=r"^(https?://.+)?$",
        description="OpenTelemetry collector that traces go to over gRPC, http://host:4317 or https://…; empty: off",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_what_it_looks_like(cls, value: Any, info: ValidationInfo) -> Any:
        kinds = _kinds(cls.model_fields[info.field_name or ""].annotation)
        if isinstance(value, bool) and kinds & {int, float}:
            raise ValueError("expected a number")
        if isinstance(value, str) and not value.strip() and {str, Path} & kinds and type(None) in kinds:
            raise ValueError(f"expected a {'path' if Path in kinds else 'name'}; null or nothing at all for none")
        if Path in kinds and isinstance(value, str) and any(each in value for each in ("\n", "\0", "-----BEGIN")):
            raise PydanticCustomError(SECRET, "expected the path of a file, but came what a file may hold")
        return value

    @field_validator("host")
    @classmethod
    def _listens(cls, host: str) -> str:
        return without_brackets(host)

    @field_validator("upstream")
    @classmethod
    def _is_no_url(cls, upstream: str | None) -> str | None:
        if upstream is not None and not UPSTREAM.fullmatch(upstream):
            raise ValueError("expected host:port, without http://, spaces, and a user before an @")
        port = (upstream or "").rpartition(":")[2]
        if port.isdecimal() and int(port) > 65535:  # of 99999, gRPC would call 34463
            raise ValueError("expected host:port with a port of at most 65535")
        return upstream

    @field_validator("upstream_model")
    @classmethod
    def _guards_a_model(cls, model: str | None, info: ValidationInfo) -> str | None:
        if info.data.get("upstream") and not model:
            raise ValueError("upstream is set: name its model that is to be guarded")
        return model

    @field_validator("quarantine")
    @classmethod
    def _has_a_folder_of_its_own(cls, folder: Path | None, info: ValidationInfo) -> Path | None:
        records = info.data.get("record_folder")
        if folder is not None and records is not None and os.path.realpath(folder) == os.path.realpath(records):
            raise ValueError("expected another folder than record_folder: its records are kept for another time")
        return folder

    @field_validator("upstream_mean", "upstream_std")
    @classmethod
    def _fit_rgb(cls, channels: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        if len(channels) not in (1, 3) or (info.field_name == "upstream_std" and min(channels) <= 0):
            raise ValueError("expected one number or three (R, G, B); a std is above 0")
        return channels

    @property
    def image_limits(self) -> ImageLimits:
        return ImageLimits(max_bytes=self.max_image_bytes, max_pixels=self.max_image_pixels, formats=self.image_formats)

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # it is called by keyword
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_others: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Takes what it is given and nothing else: `load_config` does the merging."""
        return (init_settings,)


def _kinds(annotation: Any) -> set[Any]:
    """The types that a setting may have: {int, None} of `int | None`."""
    return {annotation, *get_args(annotation)}
