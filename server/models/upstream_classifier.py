"""Guard mode and a bundle whose classifier is a served model: **its spec, asked at the very upstream that is guarded**.

The bundle names the server that it was trained with. Where the guard stands before the same model, that model is asked
there, with upstream's certificate authorities; the bundle's own answers then prove that it is the same.
"""

from __future__ import annotations

from detector.classifier import ClassifierSpec
from server.config import ServerConfig

__all__ = ["asked_upstream", "trusted"]


def asked_upstream(config: ServerConfig, spec: ClassifierSpec) -> ClassifierSpec:
    """The spec, at upstream's address if it is a served model of the name that is guarded; else as it is."""
    model = spec.name.partition("/")[2]
    if spec.kind != "kserve" or not config.upstream or model != config.upstream_model:
        return spec
    arguments = {name: value for name, value in spec.arguments.items() if name != "ca"}
    if config.upstream_ca is not None:
        arguments["ca"] = str(config.upstream_ca)
    return spec.model_copy(update={"source": f"kserve:{config.upstream}/{model}", "arguments": arguments})


def trusted(config: ServerConfig) -> tuple[str, ...]:
    """What a bundle may run or ask: what the settings name, and upstream."""
    return (*config.trusted, *((config.upstream,) if config.upstream else ()))
