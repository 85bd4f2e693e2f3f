from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Truth(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRUTH_UNSPECIFIED: _ClassVar[Truth]
    TRUTH_FALSE_ALARM: _ClassVar[Truth]
    TRUTH_ATTACK: _ClassVar[Truth]
    TRUTH_TRUE_LABEL: _ClassVar[Truth]
TRUTH_UNSPECIFIED: Truth
TRUTH_FALSE_ALARM: Truth
TRUTH_ATTACK: Truth
TRUTH_TRUE_LABEL: Truth

class FeedbackRequest(_message.Message):
    __slots__ = ("id", "truth", "true_label")
    ID_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    TRUE_LABEL_FIELD_NUMBER: _ClassVar[int]
    id: str
    truth: Truth
    true_label: str
    def __init__(self, id: _Optional[str] = ..., truth: _Optional[_Union[Truth, str]] = ..., true_label: _Optional[str] = ...) -> None: ...

class FeedbackResponse(_message.Message):
    __slots__ = ("record_id", "contradicts")
    RECORD_ID_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTS_FIELD_NUMBER: _ClassVar[int]
    record_id: str
    contradicts: bool
    def __init__(self, record_id: _Optional[str] = ..., contradicts: bool = ...) -> None: ...
