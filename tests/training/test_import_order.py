"""Inside training/, too, imports only go down: settings, then images and attacks, networks, evaluation, stages."""

from __future__ import annotations

from source_tree import ROOT, imports, module_name, sources

# A room of training/ may import what stands on its own line or above it.
ORDER = (
    {"settings", "progress", "shards", "command"},
    {"config", "load"},
    {"attacks", "data"},
    {"job", "resume"},
    {"fitting", "detectors"},
    {"evaluation"},
    {"checks"},
    {"stages"},
    {"pipeline"},
    {"cli"},
)


def rank(module: str) -> int:
    name = module.split(".")[1]
    ranks = [index for index, line in enumerate(ORDER) if name in line]
    assert len(ranks) == 1, f"training/{name} has no place in the order: add it to ORDER"
    return ranks[0]


def test_inside_training_imports_follow_the_order() -> None:
    for path in sources("training"):
        own = module_name(path)
        used = {name for name in imports(path) if name.startswith("training.")}
        if own == "training":
            assert not used, "training/__init__.py imports nothing, so that settings cost no torch"
            continue
        higher = {name for name in used if rank(name) > rank(own)}
        assert not higher, f"{path.relative_to(ROOT)} imports {sorted(higher)}, which stand above it"
