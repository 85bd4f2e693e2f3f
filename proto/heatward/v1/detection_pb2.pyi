from google.rpc import status_pb2 as _status_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HeatmapFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HEATMAP_FORMAT_NONE: _ClassVar[HeatmapFormat]
    HEATMAP_FORMAT_FLOAT: _ClassVar[HeatmapFormat]
    HEATMAP_FORMAT_PNG_OVERLAY: _ClassVar[HeatmapFormat]

class Priority(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PRIORITY_UNSPECIFIED: _ClassVar[Priority]
    PRIORITY_LOW: _ClassVar[Priority]
    PRIORITY_NORMAL: _ClassVar[Priority]
    PRIORITY_HIGH: _ClassVar[Priority]
HEATMAP_FORMAT_NONE: HeatmapFormat
HEATMAP_FORMAT_FLOAT: HeatmapFormat
HEATMAP_FORMAT_PNG_OVERLAY: HeatmapFormat
PRIORITY_UNSPECIFIED: Priority
PRIORITY_LOW: Priority
PRIORITY_NORMAL: Priority
PRIORITY_HIGH: Priority

class RawImage(_message.Message):
    __slots__ = ("data", "height", "width", "channels")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    height: int
    width: int
    channels: int
    def __init__(self, data: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("encoded", "raw")
    ENCODED_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    encoded: bytes
    raw: RawImage
    def __init__(self, encoded: _Optional[bytes] = ..., raw: _Optional[_Union[RawImage, _Mapping]] = ...) -> None: ...

class Options(_message.Message):
    __slots__ = ("false_positive_rate", "heatmap", "top_k", "max_error_rate", "look_for_patches")
    FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    LOOK_FOR_PATCHES_FIELD_NUMBER: _ClassVar[int]
    false_positive_rate: float
    heatmap: HeatmapFormat
    top_k: int
    max_error_rate: float
    look_for_patches: bool
    def __init__(self, false_positive_rate: _Optional[float] = ..., heatmap: _Optional[_Union[HeatmapFormat, str]] = ..., top_k: _Optional[int] = ..., max_error_rate: _Optional[float] = ..., look_for_patches: bool = ...) -> None: ...

class DetectRequest(_message.Message):
    __slots__ = ("request_id", "image", "options", "timeout_ms", "priority", "detector_version")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    image: Image
    options: Options
    timeout_ms: int
    priority: Priority
    detector_version: str
    def __init__(self, request_id: _Optional[str] = ..., image: _Optional[_Union[Image, _Mapping]] = ..., options: _Optional[_Union[Options, _Mapping]] = ..., timeout_ms: _Optional[int] = ..., priority: _Optional[_Union[Priority, str]] = ..., detector_version: _Optional[str] = ...) -> None: ...

class DetectBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[DetectRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[DetectRequest, _Mapping]]] = ...) -> None: ...

class DetectBatchResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[DetectResult]
    def __init__(self, results: _Optional[_Iterable[_Union[DetectResult, _Mapping]]] = ...) -> None: ...

class DetectResult(_message.Message):
    __slots__ = ("request_id", "verdict", "status")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    verdict: Verdict
    status: _status_pb2.Status
    def __init__(self, request_id: _Optional[str] = ..., verdict: _Optional[_Union[Verdict, _Mapping]] = ..., status: _Optional[_Union[_status_pb2.Status, _Mapping]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("index", "name", "probability")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    index: int
    name: str
    probability: float
    def __init__(self, index: _Optional[int] = ..., name: _Optional[str] = ..., probability: _Optional[float] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("request_id", "predicted", "top", "attack_score", "p_value", "attacked", "false_positive_rate", "recovered", "heatmap", "timings", "detector_version", "corrected", "error_rate", "reliable", "tail_estimate", "calibration_group", "patch_p_value", "patched")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    PREDICTED_FIELD_NUMBER: _ClassVar[int]
    TOP_FIELD_NUMBER: _ClassVar[int]
    ATTACK_SCORE_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    ATTACKED_FIELD_NUMBER: _ClassVar[int]
    FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    RECOVERED_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    DETECTOR_VERSION_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_FIELD_NUMBER: _ClassVar[int]
    ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    RELIABLE_FIELD_NUMBER: _ClassVar[int]
    TAIL_ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_GROUP_FIELD_NUMBER: _ClassVar[int]
    PATCH_P_VALUE_FIELD_NUMBER: _ClassVar[int]
    PATCHED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    predicted: Label
    top: _containers.RepeatedCompositeFieldContainer[Label]
    attack_score: float
    p_value: float
    attacked: bool
    false_positive_rate: float
    recovered: _containers.RepeatedCompositeFieldContainer[Label]
    heatmap: Heatmap
    timings: Timings
    detector_version: str
    corrected: Label
    error_rate: float
    reliable: bool
    tail_estimate: TailEstimate
    calibration_group: str
    patch_p_value: float
    patched: bool
    def __init__(self, request_id: _Optional[str] = ..., predicted: _Optional[_Union[Label, _Mapping]] = ..., top: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., attack_score: _Optional[float] = ..., p_value: _Optional[float] = ..., attacked: bool = ..., false_positive_rate: _Optional[float] = ..., recovered: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., heatmap: _Optional[_Union[Heatmap, _Mapping]] = ..., timings: _Optional[_Union[Timings, _Mapping]] = ..., detector_version: _Optional[str] = ..., corrected: _Optional[_Union[Label, _Mapping]] = ..., error_rate: _Optional[float] = ..., reliable: bool = ..., tail_estimate: _Optional[_Union[TailEstimate, _Mapping]] = ..., calibration_group: _Optional[str] = ..., patch_p_value: _Optional[float] = ..., patched: bool = ...) -> None: ...

class TailEstimate(_message.Message):
    __slots__ = ("probability", "low", "high")
    PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    probability: float
    low: float
    high: float
    def __init__(self, probability: _Optional[float] = ..., low: _Optional[float] = ..., high: _Optional[float] = ...) -> None: ...

class Heatmap(_message.Message):
    __slots__ = ("map", "png")
    MAP_FIELD_NUMBER: _ClassVar[int]
    PNG_FIELD_NUMBER: _ClassVar[int]
    map: FloatMap
    png: bytes
    def __init__(self, map: _Optional[_Union[FloatMap, _Mapping]] = ..., png: _Optional[bytes] = ...) -> None: ...

class FloatMap(_message.Message):
    __slots__ = ("data", "height", "width")
    DATA_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    height: int
    width: int
    def __init__(self, data: _Optional[bytes] = ..., height: _Optional[int] = ..., width: _Optional[int] = ...) -> None: ...

class Timings(_message.Message):
    __slots__ = ("queue_ms", "decode_ms", "compute_ms", "total_ms", "batch_size")
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    DECODE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_MS_FIELD_NUMBER: _ClassVar[int]
    BATCH_SIZE_FIELD_NUMBER: _ClassVar[int]
    queue_ms: float
    decode_ms: float
    compute_ms: float
    total_ms: float
    batch_size: int
    def __init__(self, queue_ms: _Optional[float] = ..., decode_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., total_ms: _Optional[float] = ..., batch_size: _Optional[int] = ...) -> None: ...

class GetDetectorRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class DetectorInfo(_message.Message):
    __slots__ = ("name", "version", "server_version", "classifier", "evidence", "heatmap_formats", "families", "default_false_positive_rate", "calibration_size", "smallest_false_positive_rate", "operating_points", "measured", "limits", "smallest_error_rate", "calibration_groups", "has_tail", "cascade", "patches")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    SERVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    CLASSIFIER_FIELD_NUMBER: _ClassVar[int]
    EVIDENCE_FIELD_NUMBER: _ClassVar[int]
    HEATMAP_FORMATS_FIELD_NUMBER: _ClassVar[int]
    FAMILIES_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_SIZE_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINTS_FIELD_NUMBER: _ClassVar[int]
    MEASURED_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    SMALLEST_ERROR_RATE_FIELD_NUMBER: _ClassVar[int]
    CALIBRATION_GROUPS_FIELD_NUMBER: _ClassVar[int]
    HAS_TAIL_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    PATCHES_FIELD_NUMBER: _ClassVar[int]
    name: str
    version: str
    server_version: str
    classifier: ClassifierInfo
    evidence: _containers.RepeatedScalarFieldContainer[str]
    heatmap_formats: _containers.RepeatedScalarFieldContainer[HeatmapFormat]
    families: _containers.RepeatedScalarFieldContainer[str]
    default_false_positive_rate: float
    calibration_size: int
    smallest_false_positive_rate: float
    operating_points: _containers.RepeatedCompositeFieldContainer[OperatingPoint]
    measured: _containers.RepeatedCompositeFieldContainer[MeasuredRates]
    limits: Limits
    smallest_error_rate: float
    calibration_groups: _containers.RepeatedCompositeFieldContainer[CalibrationGroup]
    has_tail: bool
    cascade: CascadeInfo
    patches: PatchInfo
    def __init__(self, name: _Optional[str] = ..., version: _Optional[str] = ..., server_version: _Optional[str] = ..., classifier: _Optional[_Union[ClassifierInfo, _Mapping]] = ..., evidence: _Optional[_Iterable[str]] = ..., heatmap_formats: _Optional[_Iterable[_Union[HeatmapFormat, str]]] = ..., families: _Optional[_Iterable[str]] = ..., default_false_positive_rate: _Optional[float] = ..., calibration_size: _Optional[int] = ..., smallest_false_positive_rate: _Optional[float] = ..., operating_points: _Optional[_Iterable[_Union[OperatingPoint, _Mapping]]] = ..., measured: _Optional[_Iterable[_Union[MeasuredRates, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., smallest_error_rate: _Optional[float] = ..., calibration_groups: _Optional[_Iterable[_Union[CalibrationGroup, _Mapping]]] = ..., has_tail: bool = ..., cascade: _Optional[_Union[CascadeInfo, _Mapping]] = ..., patches: _Optional[_Union[PatchInfo, _Mapping]] = ...) -> None: ...

class PatchInfo(_message.Message):
    __slots__ = ("area", "side", "masks")
    AREA_FIELD_NUMBER: _ClassVar[int]
    SIDE_FIELD_NUMBER: _ClassVar[int]
    MASKS_FIELD_NUMBER: _ClassVar[int]
    area: float
    side: int
    masks: int
    def __init__(self, area: _Optional[float] = ..., side: _Optional[int] = ..., masks: _Optional[int] = ...) -> None: ...

class CascadeInfo(_message.Message):
    __slots__ = ("share_asked", "share_cleared")
    SHARE_ASKED_FIELD_NUMBER: _ClassVar[int]
    SHARE_CLEARED_FIELD_NUMBER: _ClassVar[int]
    share_asked: float
    share_cleared: float
    def __init__(self, share_asked: _Optional[float] = ..., share_cleared: _Optional[float] = ...) -> None: ...

class CalibrationGroup(_message.Message):
    __slots__ = ("name", "size", "operating_points")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    OPERATING_POINTS_FIELD_NUMBER: _ClassVar[int]
    name: str
    size: int
    operating_points: _containers.RepeatedCompositeFieldContainer[OperatingPoint]
    def __init__(self, name: _Optional[str] = ..., size: _Optional[int] = ..., operating_points: _Optional[_Iterable[_Union[OperatingPoint, _Mapping]]] = ...) -> None: ...

class ClassifierInfo(_message.Message):
    __slots__ = ("source", "classes", "fingerprint", "input_height", "input_width")
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    INPUT_HEIGHT_FIELD_NUMBER: _ClassVar[int]
    INPUT_WIDTH_FIELD_NUMBER: _ClassVar[int]
    source: str
    classes: _containers.RepeatedScalarFieldContainer[str]
    fingerprint: str
    input_height: int
    input_width: int
    def __init__(self, source: _Optional[str] = ..., classes: _Optional[_Iterable[str]] = ..., fingerprint: _Optional[str] = ..., input_height: _Optional[int] = ..., input_width: _Optional[int] = ...) -> None: ...

class OperatingPoint(_message.Message):
    __slots__ = ("false_positive_rate", "threshold")
    FALSE_POSITIVE_RATE_FIELD_NUMBER: _ClassVar[int]
    THRESHOLD_FIELD_NUMBER: _ClassVar[int]
    false_positive_rate: float
    threshold: float
    def __init__(self, false_positive_rate: _Optional[float] = ..., threshold: _Optional[float] = ...) -> None: ...

class MeasuredRates(_message.Message):
    __slots__ = ("attack", "auroc", "tpr_at_1_percent", "tpr_at_5_percent", "recovery", "images")
    ATTACK_FIELD_NUMBER: _ClassVar[int]
    AUROC_FIELD_NUMBER: _ClassVar[int]
    TPR_AT_1_PERCENT_FIELD_NUMBER: _ClassVar[int]
    TPR_AT_5_PERCENT_FIELD_NUMBER: _ClassVar[int]
    RECOVERY_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    attack: str
    auroc: float
    tpr_at_1_percent: float
    tpr_at_5_percent: float
    recovery: float
    images: int
    def __init__(self, attack: _Optional[str] = ..., auroc: _Optional[float] = ..., tpr_at_1_percent: _Optional[float] = ..., tpr_at_5_percent: _Optional[float] = ..., recovery: _Optional[float] = ..., images: _Optional[int] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_image_bytes", "max_image_pixels", "max_batch", "max_top_k", "max_message_bytes")
    MAX_IMAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    MAX_IMAGE_PIXELS_FIELD_NUMBER: _ClassVar[int]
    MAX_BATCH_FIELD_NUMBER: _ClassVar[int]
    MAX_TOP_K_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    max_image_bytes: int
    max_image_pixels: int
    max_batch: int
    max_top_k: int
    max_message_bytes: int
    def __init__(self, max_image_bytes: _Optional[int] = ..., max_image_pixels: _Optional[int] = ..., max_batch: _Optional[int] = ..., max_top_k: _Optional[int] = ..., max_message_bytes: _Optional[int] = ...) -> None: ...
