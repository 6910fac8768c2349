"""DVC's view of the checkpoints: each training stage names the files that decide its result, and none of publishing's."""

from __future__ import annotations

import ast
import functools
from pathlib import Path, PurePosixPath

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FOLDERS = ("world/scenes",)  # deps as a whole: whatever lies in them
LIBRARY = {"lookagain.errors", "lookagain.seeds"}  # all of the library that the world may import
CARDS = "world.card"  # measures by the library's own means; nothing depends on it


@functools.cache
def modules() -> dict[str, Path]:
    """The files of world/ and lookagain/ by module name."""
    found = {}
    for path in sorted([*(ROOT / "world").rglob("*.py"), *(ROOT / "lookagain").rglob("*.py")]):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@functools.cache
def imports(path: Path) -> set[str]:
    """The modules, and names in modules, that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update([str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)])
    return names


def closure(script: str) -> set[str]:
    """The files, as posix paths, that a script can import from here, itself among them; empty `__init__` files are left out."""
    seen, queue = {ROOT / script}, [ROOT / script]
    while queue:
        reached = {modules()[name] for name in imports(queue.pop()) if name in modules()}
        reached |= {package for path in reached for package in path.parent.glob("__init__.py")}
        queue += reached - seen
        seen |= reached
    return {path.relative_to(ROOT).as_posix() for path in seen if path.stat().st_size}


def stages() -> dict[str, dict]:
    return {name: stage["do"] for name, stage in YAML(typ="safe").load((ROOT / "world/dvc.yaml").read_text())["stages"].items()}


def script_of(stage: dict) -> str:
    python, option, module, *rest = stage["cmd"].split()
    assert (python, option, rest) == ("python", "-m", ["${key}"])
    return modules()[module].relative_to(ROOT).as_posix()


def within(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


STAGES = ("train_clip", "train_policy")


def test_all_stages_are_looked_at():
    assert sorted(stages()) == list(STAGES)
    assert all(stage["wdir"] == ".." for stage in stages().values())


@pytest.mark.parametrize("name", STAGES)
def test_code_deps_are_the_import_closure(name):
    stage = stages()[name]
    needed = closure(script_of(stage))
    files = {path for path in needed if not any(within(path, folder) for folder in FOLDERS)}
    whole = {folder for folder in FOLDERS if any(within(path, folder) for path in needed)}
    given = [dep for dep in stage["deps"] if not dep.startswith("checkpoints/")]
    assert given == sorted(files | whole)


@pytest.mark.parametrize("name", STAGES)
def test_params_are_those_that_the_script_reads(name):
    stage = stages()[name]
    ((file, listed),) = stage["params"][0].items()
    tree = ast.parse((ROOT / script_of(stage)).read_text())
    read = {
        node.slice.value for node in ast.walk(tree) if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "params"
    }
    assert file == "world/params.yaml"
    assert {key.removesuffix(".${key}") for key in listed} == read
    assert "worlds.${key}" in listed  # the seed of this world alone
    assert read <= YAML(typ="safe").load((ROOT / file).read_text()).keys()


def test_a_clip_is_trained_on_its_policys_tower():
    assert "checkpoints/${key}/policy/model.safetensors" in stages()["train_clip"]["deps"]
    assert not [dep for dep in stages()["train_policy"]["deps"] if dep.startswith("checkpoints/")]


def test_publishing_names_what_it_imports():
    stage = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]["publish"]["do"]
    assert script_of(stage) == "world/publish.py"
    folders = {*FOLDERS, "world/publishing"}
    needed = closure(script_of(stage))
    files = {path for path in needed if not any(within(path, folder) for folder in folders)}
    assert sorted(dep for dep in stage["deps"] if dep.startswith(("lookagain/", "world/"))) == sorted(files | folders)
    assert "checkpoints/${item.checkpoint}" in stage["deps"]


@pytest.mark.parametrize("path", ["world/publishing/new.py", "world/publish.py", "world/card.py", "world/dvc.yaml"])
def test_what_publishes_makes_no_checkpoint_stale(path):
    """Nor would a file that is not there yet."""
    for stage in stages().values():
        assert not [dep for dep in stage["deps"] if within(path, dep)]
        assert not closure(script_of(stage)) & {path}
    publishing = {path.relative_to(ROOT).as_posix() for path in (ROOT / "world/publishing").glob("*.py")}
    assert not set().union(*(closure(script_of(stage)) for stage in stages().values())) & publishing


@pytest.mark.parametrize("module", [name for name in modules() if name.split(".")[0] == "world"])
def test_the_world_imports_little_of_the_library(module):
    found = {name for name in imports(modules()[module]) if name.split(".")[0] == "lookagain"}
    assert module == CARDS or all(name in LIBRARY or name.rpartition(".")[0] in LIBRARY for name in found)
    assert CARDS not in imports(modules()[module])
    if module.startswith("world.scenes"):
        inner = {name for name in imports(modules()[module]) if name.split(".")[0] == "world"}
        assert all(name.startswith("world.scenes") for name in inner)
        assert not imports(modules()[module]) & {"torch", "transformers"}
    if module.startswith("world.training"):
        assert not any(name.startswith(("world.publish", "world.card")) for name in imports(modules()[module]))


@pytest.mark.parametrize("folder", ["lookagain", "stages"])
def test_the_library_imports_nothing_of_the_world(folder):
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    assert [path for path in files if any(name.split(".")[0] == "world" for name in imports(path))] == []
