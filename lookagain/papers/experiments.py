"""What was measured, and with which params: the workspace and DVC's experiments, read from their dvc.lock.

dvc.lock says of each stage which params it ran with, and the hash of all that it read and wrote. A metrics file belongs to the
params of all stages upstream of it, if each stage read what the stage before it wrote; then its numbers are reusable for whatever
wants these values, whatever other params have become (`runtime` is recorded nowhere). No file is trusted that does not have the
recorded hash. Experiments are git commits under refs/exps; neither dvc nor a checkout is needed to read one.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from lookagain.errors import UserError
from lookagain.papers.tables import LOADER

LOCKS = ("dvc.lock", "pipelines/csr/dvc.lock")
CACHE = ".dvc/cache/files/md5"
WORKSPACE = "workspace"
INTERNAL = ("exec", "stash", "celery", "temp", "apply")  # DVC's own names under refs/exps
CHECKED = "reports/params.ok"  # of the stage that checks all params: a constant, which no result depends on
KEPT_OPEN = {"relpath": ".keep", "md5": hashlib.md5(b"").hexdigest()}  # git's own file in data/published
# One benchmark's figures do not depend on which others are asked: whether a file has a figure is seen in the file.
INDEPENDENT = ("evaluate.benchmarks",)


class NotMeasured(UserError):
    """Nothing usable was recorded of a file: the message is the reason that a table's cell shows."""


@dataclass(frozen=True)
class Entry:
    """A stage in dvc.lock: the params it ran with, and the hashes of what it read and wrote, by path."""

    name: str
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]


class Experiment:
    """One set of results: the workspace, or a commit that `dvc exp run` made."""

    def __init__(
        self,
        name: str,
        revision: str,
        root: Path,
        locks: Sequence[bytes | None],
        cache: Path | None = None,
        baseline: str | None = None,
    ):
        self.name = name
        self.revision = revision  # of git; of an experiment its own commit, which holds the code that ran
        self.baseline = baseline or revision  # the commit that an experiment started from, which clones share
        self.root = root
        self._locks = locks
        self._cache = cache or root / CACHE
        self._contents: dict[str, bytes] = {}  # of files that were read: several tables ask for the same ones

    @cached_property
    def entries(self) -> dict[str, Entry]:
        """The stage that wrote each path."""
        found = {}
        for text in self._locks:
            for name, raw in ((yaml.load(text, LOADER) if text else None) or {}).get("stages", {}).items():
                params = {key: value for values in raw.get("params", {}).values() for key, value in values.items()}
                deps, outs = ({one["path"]: one.get("md5", "") for one in raw.get(kind, [])} for kind in ("deps", "outs"))
                entry = Entry(name, params, deps, outs)
                found.update(dict.fromkeys(outs, entry))
        return found

    def upstream(self, path: str) -> list[Entry]:
        """The stages that made a file, its own first. Raises NotMeasured if there is none, or one read what is no longer so."""
        if path not in self.entries:
            raise NotMeasured(f"no stage of {self.name} wrote {path}")
        chain: dict[str, Entry] = {}
        queue = [self.entries[path]]
        while queue:
            entry = queue.pop()
            chain[entry.name] = entry
            for dep, digest in self._read_by(entry):
                writer = self.entries[dep]
                if writer.outs[dep] != digest:
                    raise NotMeasured(f"{self.name}: {entry.name} read another {dep} than {writer.name} wrote since")
                if writer.name not in chain:
                    queue.append(writer)
        return list(chain.values())

    def _read_by(self, entry: Entry) -> Iterator[tuple[str, str]]:
        """What a stage read of what others wrote, with its hashes."""
        for dep, digest in entry.deps.items():
            if dep not in self.entries:
                yield from self._parts(dep, digest).items()
            elif dep != CHECKED:
                yield dep, digest

    def _parts(self, folder: str, digest: str) -> dict[str, str]:
        """The outputs inside a folder that had this hash, with their own; with the folder's hash where these give another.

        Outputs of stages that are gone stay in dvc.lock: those that the folder did not hold are left out.
        """
        parts = {out: entry.outs[out] for out, entry in self.entries.items() if out.startswith(f"{folder}/")}
        files = {out: self._listed(out, own, folder) for out, own in parts.items()}
        if not all(files.values()):
            return parts  # DVC's cache here has no listing to compare
        for size in range(len(parts), -1, -1) if parts else ():
            for held in combinations(parts, size):
                listed = [file for out in held for file in files[out]]
                if digest in (_folder_hash(listed), _folder_hash([*listed, KEPT_OPEN])):
                    return {out: parts[out] for out in held}
        return dict.fromkeys(parts, digest)

    def _listed(self, out: str, digest: str, folder: str) -> list[dict[str, str]]:
        """The files of an output as DVC lists them, by paths inside `folder`; none where the cache does not know them."""
        name = out.removeprefix(f"{folder}/")
        if not digest.endswith(".dir"):
            return [{"md5": digest, "relpath": name}]
        inside = json.loads(self._cached(digest) or b"[]")
        return [{"md5": one["md5"], "relpath": f"{name}/{one['relpath']}"} for one in inside]

    def read(self, path: str) -> bytes:
        """A file that a stage wrote, or one inside a folder that it wrote. Raises NotMeasured if no copy has the recorded hash."""
        if path not in self._contents:
            self._contents[path] = self._read(path)
        return self._contents[path]

    def _read(self, path: str) -> bytes:
        if path in self.entries:
            digest = self.entries[path].outs[path]
            for content in (self._cached(digest), self._own(path)):
                if content is not None and hashlib.md5(content).hexdigest() == digest:
                    return content
            raise NotMeasured(f"{self.name}: no copy of {path} has the hash that dvc.lock records")
        folder, _, name = path.rpartition("/")
        if folder in self.entries:
            listed = json.loads(self._cached(self.entries[folder].outs[folder]) or b"[]")
            for entry in listed:
                content = self._cached(entry["md5"]) if entry["relpath"] == name else None
                if content is not None:
                    return content
        raise NotMeasured(f"{self.name}: DVC's cache here has no {path}")

    def _own(self, path: str) -> bytes | None:
        if self.name == WORKSPACE:
            return (self.root / path).read_bytes() if (self.root / path).is_file() else None
        return git_files(self.root, [f"{self.revision}:{path}"])[0]

    def _cached(self, digest: str) -> bytes | None:
        path = self._cache / digest[:2] / digest[2:]
        return path.read_bytes() if path.is_file() else None


def experiments(root: Path | str = ".") -> list[Experiment]:
    """The workspace, then DVC's experiments, the newest first."""
    root = Path(root)
    form = "%(objectname) %(refname)"
    listed = _git(root, "for-each-ref", f"--format={form}", "--sort=-committerdate", "refs/exps/")
    commits = []
    for line in listed.splitlines():
        commit, _, ref = line.partition(" ")
        parts = ref.split("/")
        if len(parts) == 5 and parts[2] not in INTERNAL:  # refs/exps/<2 of the baseline>/<38 of it>/<name>
            commits.append((parts[4], commit, parts[2] + parts[3]))
    texts = git_files(root, [f"{commit}:{lock}" for _, commit, _ in commits for lock in LOCKS])
    found = [workspace(root)]
    for place, (name, commit, baseline) in enumerate(commits):
        locks = texts[place * len(LOCKS) : (place + 1) * len(LOCKS)]
        found.append(Experiment(name, commit, root, locks, baseline=baseline))
    return found


def workspace(root: Path | str = ".", cache: Path | None = None, revision: str | None = None) -> Experiment:
    """The results that lie in the working tree; `cache` is DVC's, where it is not under `root` (a stage in a temporary copy).

    `revision` is what they are said to be of; without it, the commit that is checked out.
    """
    root = Path(root)
    locks = [(root / lock).read_bytes() if (root / lock).is_file() else None for lock in LOCKS]
    if revision is None:
        revision = _git(root, "describe", "--always", "--dirty", "--abbrev=12").strip() or "no git"
    return Experiment(WORKSPACE, revision, root, locks, cache)


def recorded_params(chain: Sequence[Entry]) -> dict[str, Any]:
    """The params that decide a file, by dotted key (sections whole)."""
    return {key: value for entry in chain for key, value in entry.params.items()}


def data_hash(chain: Sequence[Entry]) -> str:
    """The hash of the benchmark that a metrics file was scored on."""
    return next((digest for dep, digest in chain[0].deps.items() if dep.startswith("data/benchmarks/")), "")


def changed_code(chain: Sequence[Entry], root: Path | str = ".") -> list[str]:
    """The code files that are no longer as the stages ran them."""
    code = {dep: digest for entry in chain for dep, digest in entry.deps.items() if dep.endswith(".py")}
    paths = {dep: Path(root) / dep for dep in sorted(code)}
    return [dep for dep, path in paths.items() if not path.is_file() or hashlib.md5(path.read_bytes()).hexdigest() != code[dep]]


def first_difference(chain: Sequence[Entry], wanted: Mapping[str, Any]) -> str | None:
    """The first param (dotted) whose recorded value is not the wanted one; None if all are."""
    for key, value in recorded_params(chain).items():
        if key not in INDEPENDENT and not _same(value, _at(wanted, key)):
            return key
    return None


def _folder_hash(listed: Sequence[Mapping[str, str]]) -> str:
    """The hash that DVC records of a folder with these files."""
    text = json.dumps(sorted(listed, key=lambda file: file["relpath"]), sort_keys=True)
    return f"{hashlib.md5(text.encode()).hexdigest()}.dir"


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(raw, Mapping) or part not in raw:
            return None
        raw = raw[part]
    return raw


def _same(one: Any, other: Any) -> bool:
    """Whether two plain values are equal; DVC writes 5e-07, which YAML 1.1 reads as a string."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = one.keys() | other.keys()
        return all(key in one and key in other and _same(one[key], other[key]) for key in keys)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return _number(one) == _number(other)


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def git_files(root: Path, specs: Sequence[str]) -> list[bytes | None]:
    """Files as git stores them, by "<commit>:<path>", in one process; None where there is none."""
    if not specs:
        return []
    command = ["git", "-C", str(root), "cat-file", "--batch"]
    done = subprocess.run(command, input="".join(f"{spec}\n" for spec in specs).encode(), capture_output=True, check=False)
    content, found = done.stdout, list[bytes | None]()
    for _ in specs:
        head, _, content = content.partition(b"\n")
        if head.endswith(b" missing") or not head:
            found.append(None)
            continue
        size = int(head.split()[-1])
        found.append(content[:size])
        content = content[size + 1 :]
    return found


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""
