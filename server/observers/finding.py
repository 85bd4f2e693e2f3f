"""A flagged image → **an OCSF Detection Finding** (class 2004), for a SIEM. It hashes: not for the event loop.

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
from server.surroundings import release

__all__ = ["to_finding"]

OCSF = "1.6.0"
MITIGATION = {"uid": "AML.M0015", "name": "Adversarial Input Detection"}
TECHNIQUES = (
    {"uid": "AML.T0043", "name": "Craft Adversarial Data"},
    {"uid": "AML.T0015", "name": "Evade AI Model"},
)
ATTACKS = [{"technique": technique, "mitigation": MITIGATION} for technique in TECHNIQUES]
ACTIONS = {
    Action.OBSERVED: {"action_id": 3, "action": "Observed", "disposition_id": 15, "disposition": "Detected"},
    Action.DENIED: {"action_id": 2, "action": "Denied", "disposition_id": 2, "disposition": "Blocked"},
    Action.MODIFIED: {"action_id": 4, "action": "Modified", "disposition_id": 11, "disposition": "Corrected"},
}
CREATE, FINDINGS, DETECTION_FINDING = 1, 2, 2004
MEDIUM, NEW, LEARNING, REGULAR_FILE, SHA_256 = 3, 1, 4, 1, 3


def to_finding(
    time_s: float, request: InferenceRequest, result: InferenceResult, limits: ImageLimits
) -> dict[str, Any]:
    """Writes down an image that was flagged at that time."""
    verdict, model, context = result.verdict, result.model, request.context
    uid = f"{round(time_s * 1e3):012x}{secrets.token_hex(6)}"
    return {
        "activity_id": CREATE,
        "activity_name": "Create",
        "category_uid": FINDINGS,
        "category_name": "Findings",
        "class_uid": DETECTION_FINDING,
        "class_name": "Detection Finding",
        "type_uid": DETECTION_FINDING * 100 + CREATE,
        "time": round(time_s * 1e3),
        "severity_id": MEDIUM,
        "severity": "Medium",
        "status_id": NEW,
        "status": "New",
        "is_alert": True,
        "message": f"an image of {request.client} looks attacked (p = {verdict.p_value:.4g})",
        **ACTIONS[_action(context.action, result)],
        "attacks": ATTACKS,
        "metadata": {
            "version": OCSF,
            "profiles": ["security_control"],
            "product": {"name": "heatward", "vendor_name": "heatward", "version": release()},
            "uid": uid,
            "correlation_uid": context.request_id,
        },
        "finding_info": {
            "uid": uid,
            "title": "Adversarial image",
            "created_time": round(time_s * 1e3),
            "attacks": ATTACKS,
            "analytic": {
                "type_id": LEARNING,
                "type": "Learning (ML/DL)",
                "name": model.name,
                "version": model.version,
                "uid": model.bundle_sha256,
            },
        },
        "evidences": [
            {
                "actor": {"user": {"name": request.client}},
                "file": {
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
                },
            }
        ],
        "unmapped": {
            "p_value": verdict.p_value,
            "false_positive_rate": result.false_positive_rate,
            "disclosure": context.disclosure.value,
            "predicted": verdict.label,
            "recovered": verdict.recovered[0][0] if verdict.recovered else None,
        },
    }


def _action(action: Action, result: InferenceResult) -> Action:
    """What became of the call; a flag of the server's own rate alone acts on nothing, nor does a label that is kept."""
    kept = action is Action.MODIFIED and result.verdict.corrected[0] == result.verdict.label
    return action if result.attacked and not kept else Action.OBSERVED
