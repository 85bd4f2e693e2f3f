"""Imports only go down (docs/architecture.md), no file does what the house forbids. Read from the source with `ast`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from source_tree import PACKAGES, ROOT, imports, module_name, sources, tree

# A room of detector/ may import what stands on its own line or above it.
DETECTOR = (
    {
        "errors",
        "text",
        "files",
        "keys",
        "lock",
        "cpus",
        "malloc",
        "service_variables",
        "settings",
        "load",
        "toml",
        "records",
        "remote",
        "surrogate",
        "queries",
    },
    {"spec", "images", "architectures"},
    {"classifier"},
    {"heatmaps"},
    {"evidence"},
    {"scoring"},
    {"bundle"},
    {"detector", "differentiable"},
)
# The same for the rooms of server/.
SERVER = (
    {"errors", "addresses"},
    {"config", "logs"},
    {"surroundings", "load"},
    {"access"},
    {"models"},
    {"inference"},
    {"transport"},
    {"observers"},
    {"protocols"},
    {"app"},
    {"cli", "signing"},
)
# The same for the rooms of training/.
TRAINING = (
    {"settings", "deliveries", "parameters", "images", "progress", "shards", "command", "rates", "tracking", "devices"},
    {"signing"},
    {"config", "load"},
    {"attacks", "data", "distilled"},
    {"runners"},
    {"served"},
    {"job", "resume"},
    {"fitting", "detectors"},
    {"evaluation"},
    {"checks"},
    {"stages"},
    {"pipeline"},
    {"forecast"},
    {"cli"},
    {"retraining"},
    {"redteam"},
)
# For those of forensics/.
FORENSICS = ({"theme", "drawing"}, {"pages", "pictures"}, {"explain", "report", "review"})
# And for those of proto/heatward. Its __init__ stands above them all: it imports the client when it is asked for.
HEATWARD = (
    {"v1", "inference"},
    {"errors", "images"},
    {"client"},
    {"cli"},
    {"__main__"},
)
ORDERS = {
    "heatward": HEATWARD,
    "detector": DETECTOR,
    "server": SERVER,
    "training": TRAINING,
    "forensics": FORENSICS,
}
CORE = ("models", "inference")
"""Rooms of server/ that know no protocol."""
CONTRACTS = ("heatward.v1", "heatward.inference")
REMOTE_MODELS = ROOT / "detector/classifier/sources/kserve.py"
"""Asks a model by KServe v2, with the generated contracts: the one file of detector/ that speaks gRPC."""
RED_TEAM = ROOT / "training/redteam/remote.py"
"""Attacks a running server as its callers would: the one file of training/ that uses the client."""
COMMAND_LINE = ("heatward.cli.exit_codes", "heatward.cli.files", "heatward.cli.options")
"""What commands outside the wheel share with those in it."""
HEAVY = {
    "torch",
    "torchvision",
    "numpy",
    "PIL",
    "pydantic",
    "safetensors",
    "timm",
    "torchattacks",
    "matplotlib",
    "jinja2",
    "rich",
    "pyarrow",
    "fsspec",
    "mlflow",
}


def top(name: str) -> str:
    return name.split(".")[0]


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def test_the_walk_sees_every_package() -> None:
    assert all((folder / "__init__.py").exists() for folder in PACKAGES.values())
    assert not (ROOT / "proto/__init__.py").exists()  # it would hide google's proto-plus
    assert "detector.errors.ImageDecodeError" in imports(ROOT / "detector/images/decoding.py")


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("heatward", {"detector", "training", "server", "forensics", "examples", "torch", "torchvision", "pydantic"}),
        ("detector", {"heatward", "training", "server", "forensics", "examples", "grpc", "torchattacks", "matplotlib"}),
        ("training", {"server", "forensics", "examples", "matplotlib", "jinja2"}),
        ("server", {"training", "forensics", "examples", "torchattacks", "matplotlib", "rich"}),
        ("forensics", {"server", "examples"}),
        ("examples", {"server"}),
    ],
)
def test_packages_import_only_downwards(package: str, forbidden: set[str]) -> None:
    for path in sources(package):
        wrong = {name for name in imports(path) if top(name) in forbidden}
        if path == REMOTE_MODELS:
            wrong -= {name for name in wrong if name == "grpc" or within(name, CONTRACTS[1:])}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_grpc_is_imported_only_where_a_remote_model_is_asked() -> None:
    assert not {"grpc", "heatward"} & {top(name) for name in imports(REMOTE_MODELS, at_import_time_only=True)}


def test_the_client_imports_nothing_heavy_at_import_time() -> None:
    for path in sources("heatward"):
        heavy = {name for name in imports(path, at_import_time_only=True) if top(name) in HEAVY}
        assert not heavy, f"{path.relative_to(ROOT)} imports {sorted(heavy)} at import time"


def test_fsspec_is_imported_only_where_a_url_is_used() -> None:
    for path in sources("detector"):
        assert "fsspec" not in {top(name) for name in imports(path, at_import_time_only=True)}, path


def test_matplotlib_is_imported_in_one_place() -> None:
    """Elsewhere it would read the backend that a notebook names."""
    for path in [*sources("training"), *sources("forensics"), *sources("examples"), *ROOT.glob("benchmarks/**/*.py")]:
        if path != ROOT / "forensics/drawing.py":
            assert "matplotlib" not in {top(name) for name in imports(path)}, path


def test_the_server_knows_only_the_contracts_of_the_client() -> None:
    known = (*CONTRACTS, *COMMAND_LINE)
    for path in sources("server"):
        wrong = {name for name in imports(path) if top(name) == "heatward" and not within(name, known)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


def test_only_the_demo_and_the_red_team_use_the_client() -> None:
    """The jobs may ask for `heatward.__version__`, which every bundle records."""
    for path in [*sources("training"), *sources("forensics")]:
        if path == RED_TEAM:
            continue
        used = {name for name in imports(path) if top(name) == "heatward" and not within(name, COMMAND_LINE)}
        used -= {"heatward", "heatward.__version__"}
        used |= {
            ast.unparse(node)
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "heatward"
        } - {"heatward.__version__"}
        assert not used, f"{path.relative_to(ROOT)} uses {sorted(used)}"


def room(module: str) -> str:
    """The second level of a module's name: the file or folder of its package that it stands in."""
    return module.split(".")[1]


def rooms_imported(path: Path, package: str) -> set[str]:
    """Rooms of its package that a file imports, its own aside."""
    own = module_name(path).split(".")[1:2]
    return {room(name) for name in imports(path) if name.startswith(f"{package}.")} - {*own, "__version__"}


def rank(name: str, order: tuple[set[str], ...]) -> int:
    """Line of an order on which a room stands."""
    ranks = [index for index, line in enumerate(order) if name in line]
    assert len(ranks) == 1, f"{name} has no place in the order of its package: add it to the tables above"
    return ranks[0]


@pytest.mark.parametrize(("package", "order"), ORDERS.items())
def test_rooms_import_only_what_stands_above_them(package: str, order: tuple[set[str], ...]) -> None:
    for path in sources(package):
        found = rooms_imported(path, package)
        if module_name(path) == package:
            assert not found or package == "heatward", (
                f"{package}/__init__.py imports nothing, so that errors cost no torch"
            )
            continue
        own = room(module_name(path))
        wrong = {name for name in found if rank(name, order) > rank(own, order)}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}, which stand below it"


def test_the_core_of_the_server_knows_no_protocol() -> None:
    """A protocol is an adapter: it turns messages into requests, and results into messages."""
    for path in [path for name in CORE for path in (PACKAGES["server"] / name).rglob("*.py")]:
        wrong = {name for name in imports(path) if top(name) in {"heatward", "google", "grpc", "grpc_health"}}
        assert not wrong, f"{path.relative_to(ROOT)} imports {sorted(wrong)}"


@pytest.mark.parametrize("name", ["models", "inference", "transport"])
def test_who_looks_on_is_known_to_nobody_on_the_road(name: str) -> None:
    watching = {path.stem for path in (PACKAGES["server"] / "observers").glob("[!_]*.py")}
    for path in (PACKAGES["server"] / name).rglob("*.py"):
        names = {node.id for node in ast.walk(tree(path)) if isinstance(node, ast.Name)}
        names |= {node.attr for node in ast.walk(tree(path)) if isinstance(node, ast.Attribute)}
        words = {name.lower().strip("_") for name in names} - {"shadow"}  # a role of a model, too
        assert not watching & words, f"{path.relative_to(ROOT)} speaks of {sorted(watching & words)}"


@pytest.mark.parametrize("package", ORDERS)
def test_folders_import_each_other_in_one_direction(package: str) -> None:
    rooms: dict[str, set[str]] = {}
    for path in sources(package):
        if module_name(path) != package:
            rooms.setdefault(room(module_name(path)), set()).update(rooms_imported(path, package))
    refuse_circles(rooms)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_module_imports_itself_through_others(package: str) -> None:
    modules = {module_name(path): path for path in sources(package)}
    graph = {
        name: {other for other in modules if other != name and within_any(imports(path), other, modules)}
        for name, path in modules.items()
    }
    refuse_circles(graph)


def refuse_circles(graph: dict[str, set[str]]) -> None:
    finished: set[str] = set()

    def visit(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, f"circle: {' → '.join((*road[road.index(name) :], name))}"
        if name not in finished:
            for other in graph[name]:
                visit(other, (*road, name))
            finished.add(name)

    for name in graph:
        visit(name, ())


def within_any(imported: frozenset[str], module: str, modules: dict[str, Path]) -> bool:
    """Whether one of the imported names is `module` or something defined in it (not a submodule of it)."""
    return any(name == module or (name.rpartition(".")[0] == module and name not in modules) for name in imported)


@pytest.mark.parametrize("package", PACKAGES)
def test_products_neither_assert_nor_unpickle(package: str) -> None:
    for path in sources(package):
        place = path.relative_to(ROOT)
        assert not {"pickle", "dill", "joblib", "cloudpickle"} & {top(name) for name in imports(path)}, place
        for node in ast.walk(tree(path)):
            assert not isinstance(node, ast.Assert), f"{place}:{node.lineno} asserts: raise one of our errors"
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                assert safe, f"{place}:{node.lineno} calls torch.load without weights_only=True"
