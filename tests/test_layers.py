"""The architecture: arrows point down, pure modules stay pure, and each stage of dvc.yaml depends on exactly what it imports.

`python tests/test_layers.py` (`make deps`) writes the right deps into the dvc.yaml files.
"""

import ast
import functools
from pathlib import Path

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from lookagain.runtime import DEFAULT_CONFIG

ROOT = Path(__file__).parent.parent
PIPELINES = [ROOT / "dvc.yaml", ROOT / "pipelines/csr/dvc.yaml"]

# They cannot change a result, so an edit of them must not run a stage again.
NO_DEPS = tuple(f"lookagain.{name}" for name in ("runtime", "launch", "tracking"))
PUBLISHERS = ("publish",)  # of the small world: no script of stages/, and its deps are its own
# Packages whose files a stage finds by a name in params: dvc.yaml names them by that param.
FOUND_BY_NAME = {"generate_pairs": "sources", "search": "rewards"}
# Lower layers first. A module may import from its own layer and those below.
LAYERS = [
    {"errors", "seeds", "schema", "params", "records", "extensions", "augmentations"},
    {
        "pairs",
        "losses",
        "metrics",
        "stats",
        "images",
        "pools",
        "cards",
        "checkpoints",
        "transforms",
        "prompts",
        "chat",
        "judge",
        "diagnostics",
        "overlap",
        "packing",
    },
    {"policy", "features", "rewards", "decoder", "sizes"},
    {
        "generation",
        "search",
        "attention",
        "training",
        "evaluation",
        "report",
        "papers",
        "sources",
        "export",
        "plan",
        "fidelity",
    },
    {"tracking", "runtime"},
    {"cli", "launch", "verify"},
]
# Properties of the params' sections, and the keys they read.
PROPERTIES = {"policy.loading": ["policy.dtype", "policy.attention", "policy.four_bit", "policy.pad_images"]}
NO_TORCH = [
    "errors",
    "seeds",
    "schema",
    "params",
    "records",
    "pairs",
    "metrics",
    "stats",
    "images",
    "pools",
    "checkpoints",
    "augmentations",
    "diagnostics",
    "overlap",
    "extensions",
    "cards",
    "fidelity",
    "sources",
    "papers",
    "prompts",
    "chat",
    "judge",
    "runtime",
    "plan",
    "sizes",
    "verify",
    "cli",
]


@functools.cache
def modules() -> dict[str, Path]:
    found = {}
    for path in sorted((ROOT / "lookagain").rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """Full names of what a file imports (modules, and names in modules), without what is imported for type checks alone."""
    names: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module))
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        for inner in ast.iter_child_nodes(node):
            visit(inner)

    visit(ast.parse(path.read_text()))
    return names


def closure(script: Path) -> list[str]:
    """The script and every lookagain module it can import, as sorted paths; empty `__init__` files are left out.

    Files that a stage finds by name are no part of it, but what they import is; a package's style and script are.
    """
    named = sorted((ROOT / "lookagain" / FOUND_BY_NAME.get(script.stem, "no such package")).glob("[!_]*.py"))
    known, seen, queue = modules(), set(), [script, *named]
    while queue:
        names = imports(queue.pop())
        reached = {name for name in names if name in known}
        reached |= {parent for name in reached for parent in _parents(name)}
        for name in sorted(name for name in reached - seen if not name.startswith(NO_DEPS)):
            seen.add(name)
            queue.append(known[name])
    paths = [known[name] for name in seen if known[name].stat().st_size and known[name] not in named]
    paths += {path for name in seen for path in known[name].parent.iterdir() if path.suffix in (".css", ".js")}
    return sorted(path.relative_to(ROOT).as_posix() for path in [*paths, script])


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


@functools.cache
def stages(path: Path) -> dict[str, dict]:
    """A dvc.yaml's stages by name, `do` unwrapped, without the publisher's."""
    raw = YAML().load(path.read_text())
    return {name: stage.get("do", stage) for name, stage in raw["stages"].items() if name not in PUBLISHERS}


def script_of(stage: dict) -> Path:
    command = stage["cmd"] if isinstance(stage["cmd"], str) else stage["cmd"][0]
    return ROOT / "stages" / f"{command.partition('lookagain.launch ')[2].split()[0]}.py"


def is_code(dep: object) -> bool:
    """Whether a dep is code that a stage imports; files found by a name in params (`${`) stay as they are written."""
    return str(dep).startswith(("lookagain/", "stages/")) and "${" not in str(dep)


ALL_STAGES = [(path, name) for path in PIPELINES for name in stages(path)]


@pytest.mark.parametrize(("path", "name"), ALL_STAGES, ids=lambda value: getattr(value, "name", value))
def test_deps_are_the_import_closure(path, name):
    stage = stages(path)[name]
    given, right = [dep for dep in stage["deps"] if is_code(dep)], closure(script_of(stage))
    assert given == right, f"`make deps` writes: {right}"


@pytest.mark.parametrize(("path", "name"), ALL_STAGES, ids=lambda value: getattr(value, "name", value))
def test_params_are_those_the_script_reads(path, name):
    stage = stages(path)[name]
    assert not [key for key in stage["params"] if str(key).startswith("runtime")]
    source = script_of(stage).read_text()
    chains = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
    whole = {chain for chain in chains if not any(other.startswith(chain + ".") for other in chains)}
    read = {chain.removeprefix("params.").replace("lambda_", "lambda") for chain in whole if chain.startswith("params.")}
    read = {key for one in read for key in PROPERTIES.get(one, [one])}
    listed = {
        key
        for others in PIPELINES
        for one in stages(others).values()
        if script_of(one) == script_of(stage)
        for key in one["params"]
        if isinstance(key, str)  # else it is a whole file: check_params reads all
    }
    if not listed:
        return
    for key in read:
        if not key.startswith("runtime") and key != "data.max_image_pixels":
            assert any(covers(one, key) or covers(key, one) or "${" in one for one in listed), f"{key} is read but not listed"
    for key in listed:
        if "${" not in key:
            assert any(covers(key, one) or covers(one, key) for one in read), f"{key} is listed but not read"


@pytest.mark.parametrize(("path", "name"), ALL_STAGES, ids=lambda value: getattr(value, "name", value))
def test_stages_depend_on_the_file_that_they_find_by_name(path, name):
    stage = stages(path)[name]
    package = FOUND_BY_NAME.get(script_of(stage).stem, "")
    assert len([dep for dep in stage["deps"] if str(dep).startswith(f"lookagain/{package}/${{")]) == bool(package)


def test_the_publisher_depends_on_what_it_imports():
    """And on nothing else of the library: its deps are files and folders of world/."""
    stage = YAML().load((ROOT / "dvc.yaml").read_text())["stages"]["publish"]["do"]
    files = {"world/publish.py": ROOT / "world/publish.py"}
    queue = list(files.values())
    while queue:
        for name in imports(queue.pop()):
            path = ROOT / f"{name.replace('.', '/')}.py"
            if name.startswith(("world.", "lookagain.")) and path.is_file() and path not in files.values():
                files[path.relative_to(ROOT).as_posix()] = path
                queue.append(path)
    deps = [str(dep) for dep in stage["deps"] if str(dep).startswith(("world/", "lookagain/"))]
    assert not [file for file in files if not any(file == dep or file.startswith(f"{dep}/") for dep in deps)]
    assert not [dep for dep in deps if not any(file == dep or file.startswith(f"{dep}/") for file in files)]


def test_accelerate_starts_the_stages_that_compute_with_a_model():
    launcher = f'python -m accelerate.commands.launch --quiet --config_file "${{ACCELERATE_CONFIG:-{DEFAULT_CONFIG}}}" -m '
    with Repo(ROOT) as repo:
        commands = [stage.cmd if isinstance(stage.cmd, str) else stage.cmd[0] for stage in repo.index.stages if stage.cmd]
    ours = [command for command in commands if "lookagain.launch" in command]
    assert len(ours) > 20
    for command in ours:
        computes = "run.device" in script_of({"cmd": command}).read_text()
        assert command.startswith(f"{launcher if computes else 'python -m '}lookagain.launch "), command


def covers(section: str, key: str) -> bool:
    return key == section or key.startswith(section + ".")


def layer(module: str) -> int:
    part = module.split(".")[1]
    (number,) = [number for number, names in enumerate(LAYERS) if part in names]
    return number


@pytest.mark.parametrize("module", [name for name in modules() if name != "lookagain"])
def test_arrows_point_down(module):
    for name in imports(modules()[module]) & modules().keys() - {"lookagain"}:
        assert layer(name) <= layer(module), f"{module} imports {name}, which lies above it"
        if layer(module) < layer("lookagain.tracking"):
            assert name not in ("lookagain.tracking", "lookagain.runtime"), f"{module} imports {name}: only stages do"


@pytest.mark.parametrize("module", modules())
def test_who_imports_what(module):
    found = {name.split(".")[0] for name in imports(modules()[module])}
    assert "dvc" not in found or module == "lookagain.verify"
    assert "pickle" not in found
    assert "mlflow" not in found or module == "lookagain.tracking.store"
    part = module.split(".")[1] if "." in module else ""
    if part in NO_TORCH:
        at_start = {name.split(".")[0] for name in imports(modules()[module], top_level_only=True)}
        assert not at_start & {"torch", "transformers", "peft", "trl", "open_clip", "mlflow"}, (
            f"{module} must start without torch"
        )


def write_deps(path: Path) -> None:
    yaml = YAML()
    yaml.width = 1000
    yaml.indent(mapping=2, sequence=4, offset=2)
    raw = yaml.load(path.read_text())
    for name, entry in raw["stages"].items():
        if name in PUBLISHERS:
            continue
        stage = entry.get("do", entry)
        stage["deps"][:] = [*(dep for dep in stage["deps"] if not is_code(dep)), *closure(script_of(stage))]
    with path.open("w") as file:
        yaml.dump(raw, file)


if __name__ == "__main__":
    for pipeline in PIPELINES:
        write_deps(pipeline)
