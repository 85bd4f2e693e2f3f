"""A flagged image, or an alert → **an OCSF Detection Finding** (class 2004). It hashes: not for the event loop.

The schema is OCSF 1.6.0 (https://schema.ocsf.io/1.6.0/classes/detection_finding) with its profile `security_control`;
`attacks` names techniques and the mitigation of MITRE ATLAS (https://atlas.mitre.org). Nothing of the image is in it
but the sha256 of what came.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import Any

from detector.images import ImageLimits
from server.inference.context import Action
from server.inference.request import InferenceRequest, InferenceResult
from server.observers.queries import QueryAlert
from server.surroundings import release

__all__ = ["to_finding", "to_sequence_finding"]

OCSF = "1.6.0"
MITIGATION = {"uid": "AML.M0015", "name": "Adversarial Input Detection"}
TECHNIQUES = (
    {"uid": "AML.T0043", "name": "Craft Adversarial Data"},
    {"uid": "AML.T0015", "name": "Evade AI Model"},
)
ATTACKS = [{"technique": technique, "mitigation": MITIGATION} for technique in TECHNIQUES]
ASKING = {"uid": "AML.T0043.001", "name": "Black-Box Optimization"}
SEQUENCE_ATTACKS = [{"technique": TECHNIQUES[0], "sub_technique": ASKING, "mitigation": MITIGATION}]
ACTIONS = {
    Action.OBSERVED: {"action_id": 3, "action": "Observed", "disposition_id": 15, "disposition": "Detected"},
    Action.DENIED: {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"},
    Action.MODIFIED: {"action_id": 4, "action": "Modified", "disposition_id": 11, "disposition": "Corrected"},
}
CREATE, FINDINGS, DETECTION_FINDING = 1, 2, 2004
MEDIUM, NEW, BEHAVIORAL, LEARNING, REGULAR_FILE, SHA_256 = 3, 1, 2, 4, 1, 3


def to_finding(
    time_s: float, request: InferenceRequest, result: InferenceResult, limits: ImageLimits
) -> dict[str, Any]:
    """Writes down an image that was flagged at that time."""
    verdict, model, context = result.verdict, result.model, request.context
    least = verdict.p_value if verdict.patch is None else min(verdict.p_value, verdict.patch)
    looks = "looks attacked" if least == verdict.p_value else "looks as if a patch made its label"
    event = _finding(
        time_s,
        title="Adversarial image",
        message=f"an image of {request.client} {looks} (p = {least:.4g})",
        action=_action(context.action, result),
        attacks=ATTACKS,
        analytic={
            "type_id": LEARNING,
            "type": "Learning (ML/DL)",
            "name": model.name,
            "version": model.version,
            "uid": model.bundle_sha256,
        },
        client=request.client,
        unmapped={
            "p_value": verdict.p_value,
            "false_positive_rate": result.false_positive_rate,
            "disclosure": context.disclosure.value,
            "predicted": verdict.label,
            "recovered": verdict.recovered[0][0] if verdict.recovered else None,
        },
    )
    if verdict.patch is not None:
        event["unmapped"]["patch_p_value"] = verdict.patch
    event["metadata"]["correlation_uid"] = context.request_id
    event["evidences"][0]["file"] = {
        "name": request.request_id,
        "type_id": REGULAR_FILE,
        "size": request.source.size_bytes,
        "hashes": [
            {
                "algorithm_id": SHA_256,
                "algorithm": "SHA-256",
                "value": hashlib.sha256(request.source.content(limits)).hexdigest(),
            }
        ],
    }
    return event


def to_sequence_finding(alert: QueryAlert) -> dict[str, Any]:
    """Writes down a client whose images look like an attack's queries."""
    told = f"{alert.suspicious} of the last {alert.images} images of {alert.client} resemble an attack's queries"
    return _finding(
        alert.time_s,
        title="Query sequence",
        message=told,
        action=Action.OBSERVED,
        attacks=SEQUENCE_ATTACKS,
        analytic={"type_id": BEHAVIORAL, "type": "Behavioral", "name": "query sequences"},
        client=alert.client,
        unmapped={
            "request_id": alert.request_id,
            "model": alert.model,
            "suspicious": alert.suspicious,
            "images": alert.images,
            "attacked": alert.attacked,
        },
    )


def _finding(
    time_s: float,
    *,
    title: str,
    message: str,
    action: Action,
    attacks: list[dict[str, Any]],
    analytic: dict[str, Any],
    client: str,
    unmapped: dict[str, Any],
) -> dict[str, Any]:
    """What every finding has."""
    time_ms = round(time_s * 1e3)
    uid = f"{time_ms:012x}{secrets.token_hex(6)}"
    return {
        "activity_id": CREATE,
        "activity_name": "Create",
        "category_uid": FINDINGS,
        "category_name": "Findings",
        "class_uid": DETECTION_FINDING,
        "class_name": "Detection Finding",
        "type_uid": DETECTION_FINDING * 100 + CREATE,
        "time": time_ms,
        "severity_id": MEDIUM,
        "severity": "Medium",
        "status_id": NEW,
        "status": "New",
        "is_alert": True,
        "message": message,
        **ACTIONS[action],
        "attacks": attacks,
        "metadata": {
            "version": OCSF,
            "profiles": ["security_control"],
            "product": {"name": "heatward", "vendor_name": "heatward", "version": release()},
            "uid": uid,
        },
        "finding_info": {
            "uid": uid,
            "title": title,
            "created_time": time_ms,
            "attacks": attacks,
            "analytic": analytic,
        },
        "evidences": [{"actor": {"user": {"name": client}}}],
        "unmapped": unmapped,
    }


def _action(action: Action, result: InferenceResult) -> Action:
    """What became of the call; a flag of the server's own rate alone acts on nothing, nor does a label that is kept."""
    kept = action is Action.MODIFIED and result.verdict.corrected[0] == result.verdict.label
    return action if result.attacked and not kept else Action.OBSERVED
