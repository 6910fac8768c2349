"""Whether the outputs here are those of the committed run.

The head of docs/results.md names the commit that holds the run's dvc.lock, in which DVC keeps the hash of every output, and what
the run was made with. The same code, params, processes and hardware give the same bytes; other hardware may add in another order.
"""

from __future__ import annotations

import csv
import platform
import re
import subprocess
from collections.abc import Iterable, Mapping
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from lookagain.errors import UserError
from lookagain.papers.experiments import LOCKS, Entry, Experiment, git_files
from lookagain.papers.studies import preset_of
from lookagain.params import read_raw
from lookagain.records import atomic_write
from lookagain.runtime import accelerate_config, cores

RESULTS = Path("docs/results.md")
TABLES = Path("reports/tables")
LISTED = 6  # changed params or files that a line names
CPU_KEYS = ("model name", "cpu family", "model")  # of /proc/cpuinfo: virtual machines share names


def verify(commit: str = "") -> tuple[bool, list[str]]:
    """Compare the outputs here with those of a commit's run, the one that docs/results.md names by default.

    Returns whether all are equal, and what to tell. Raises UserError if there is no such run.
    """
    if not Path("dvc.yaml").is_file():
        raise UserError(f"no dvc.yaml in {Path.cwd()}: run from the repository's root")
    recorded = read_head()
    if not commit and "commit" not in recorded:
        raise UserError(f"{RESULTS} names no commit: no run is committed yet (`make docs` writes it), or --commit names one")
    commit, whose = _resolve(commit or recorded["commit"]), f"commit {commit}" if commit else "the committed run"
    locks = git_files(Path(), [f"{commit}:{lock}" for lock in LOCKS])
    outputs = Experiment(commit, commit, Path(), locks).entries
    if not outputs:
        raise UserError(f"{whose} has no dvc.lock: it holds no run")
    here, changed_params = _read_workspace(commit, outputs)
    differing = [path for path in in_pipeline_order(outputs) if here.get(path) != outputs[path].outs[path]]
    told = [f"{len(outputs) - len(differing)} of {len(outputs)} outputs are byte for byte those of {whose}"]
    if differing:
        state = "differs" if differing[0] in here else "is missing"
        told += [f"first in the pipeline, {differing[0]} of stage {outputs[differing[0]].name} {state}", _metrics_apart(commit)]
    if changed_params:
        told.append(f"params differ: {_few(changed_params)}")
    for key, value in hardware().items() if commit == recorded.get("commit") else ():
        if value != recorded.get(key):
            told.append(f"{key}: {value} here, {recorded.get(key)} there")
    return not differing, told


def write_results() -> None:
    """Write docs/results.md: the last run's table, under the commit that holds its locks and what it was made with.

    Raises UserError if the work tree is not as committed, or the pipeline not up to date: no commit would be that of the run.
    """
    commit = _resolve("HEAD")
    if changed := _git("status", "--porcelain", "--untracked-files=all", "--", ".", ":!docs").stdout.splitlines():
        raise UserError(f"commit first, for {RESULTS} names the commit of the run; not committed: {_few(changed)}")
    equal, told = verify(commit)
    if stale := _stale_stages():
        raise UserError(f"the pipeline is not up to date, run `dvc repro`: {_few(stale)}")
    if not equal:
        raise UserError(f"the dvc.lock of HEAD is of another run: {'; '.join(told)}")
    head = {"commit": commit, "preset": preset_of(read_raw()), **hardware()}
    with atomic_write(RESULTS) as file:
        file.write(f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n{(TABLES / 'results.md').read_text(encoding='utf-8')}")


def read_head() -> dict[str, Any]:
    """The keys at the head of docs/results.md: commit, preset, and what `hardware` says; none if no run is committed."""
    parts = RESULTS.read_text(encoding="utf-8").split("---\n", 2) if RESULTS.is_file() else []
    try:
        head = yaml.safe_load(parts[1]) if len(parts) == 3 and not parts[0] else {}
    except yaml.YAMLError as error:
        raise UserError(f"the head of {RESULTS} is not valid YAML: `make docs` writes it") from error
    return head if isinstance(head, dict) else {}


def hardware() -> dict[str, str | int]:
    """What a run's bytes depend on beside code and params: the number of processes, the cores they share, the kind of CPU."""
    processes = accelerate_config()[1].get("num_processes", 1)
    cpuinfo = Path("/proc/cpuinfo")
    known = dict(re.findall(r"^(.*?)\s*: (.*)$", cpuinfo.read_text(), re.MULTILINE)) if cpuinfo.is_file() else {}
    kind = ", ".join(known[key] for key in CPU_KEYS if key in known) or platform.machine()
    return {"processes": processes, "cores": cores(), "cpu": kind}


def in_pipeline_order(outputs: Mapping[str, Entry]) -> list[str]:
    """Outputs' paths, each after all that its stage read; a dep may be an output, a folder of several or a file in one."""

    def reads(entry: Entry) -> list[str]:
        return [out for out in outputs for dep in entry.deps if f"{out}/".startswith(f"{dep}/") or dep.startswith(f"{out}/")]

    return list(TopologicalSorter({path: reads(entry) for path, entry in outputs.items()}).static_order())


def _read_workspace(commit: str, outputs: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """DVC's hashes of outputs as they are on disk, by path, and the params (dotted) that are not as in a commit.

    An output that no stage of the present params makes is left out, as are the params of `runtime`, which change no result.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            root = Path(repo.root_dir)
            outs = {Path(out.fs_path).relative_to(root).as_posix(): out for out in repo.index.outs if out.exists}
            hashes = {path: outs[path].get_hash().value for path in outputs if path in outs}
            changed = repo.params.diff(a_rev=commit).get("diff", {}).get("params.yaml", {})
            return hashes, sorted(key for key in changed if not key.startswith("runtime."))
    except DvcException as error:
        raise UserError(f"DVC: {error}") from error


def _stale_stages() -> list[str]:
    from dvc.repo import Repo

    with Repo() as repo:
        return sorted(repo.status(targets=["report"], with_deps=True))


def _metrics_apart(commit: str) -> str:
    """How far the results table here is from a commit's: how many figures differ, and which by the most standard errors."""
    path = TABLES / "results.csv"
    here = _figures(path.read_text(encoding="utf-8") if path.is_file() else "")
    there = _figures((git_files(Path(), [f"{commit}:{path.as_posix()}"])[0] or b"").decode())
    shared = here.keys() & there.keys()
    apart = {name: abs(here[name][0] - there[name][0]) / (there[name][1] or 1) for name in shared}
    differing = sorted((name for name in shared if apart[name]), key=lambda name: (-apart[name], name))
    if not differing:
        return f"the {len(shared)} metrics that both results tables have are equal" if shared else "no metric is in both tables"
    most = differing[0]
    gap = f"{here[most][0]:.6g} here, {there[most][0]:.6g} there"
    unit = f" ({apart[most]:.2g} standard errors)" if there[most][1] else ""
    return f"{len(differing)} of {len(shared)} metrics differ, most {most}: {gap}{unit}"


def _figures(table: str) -> dict[str, tuple[float, float]]:
    """Value and standard error (0: none) of each figure of a results.csv."""
    rows = [row for row in csv.DictReader(table.splitlines()) if row["value"]]
    return {f"{row['metric']} of {row['model']}": (float(row["value"]), float(row["se"] or 0)) for row in rows}


def _resolve(commit: str) -> str:
    """A commit's whole hash. Raises UserError if it is not here."""
    found = _git("rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    if found.returncode == 0:
        return found.stdout.strip()
    if _git("rev-parse", "--git-dir").returncode:
        raise UserError("no git repository here: the committed run's hashes are read from git")
    shallow = _git("rev-parse", "--is-shallow-repository").stdout.strip() == "true"
    raise UserError(f"no commit {commit} here" + ("; the clone is shallow: `git fetch --unshallow`" if shallow else ""))


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError("no git on PATH: the committed run's hashes are read from git") from None


def _few(names: list[str]) -> str:
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if names[LISTED:] else "")
