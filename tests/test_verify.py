"""The committed run: what git keeps of it, and whether the outputs here are its. A pipeline of shell commands stands for ours."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from lookagain import cli, verify
from lookagain.papers.experiments import Entry

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  prepare:
    cmd: mkdir -p data/pool data/rows && echo ${seed} > data/pool/a && echo b > data/pool/b
    params: [seed]
    outs: [data/pool]
  evaluate:
    foreach: {base: 1, csr-1: 2}
    do:
      cmd: mkdir -p data/rows reports/metrics && cat models/csr-1/adapter | tee reports/metrics/${key}.json > data/rows/${key}.json
      deps: [models/csr-1]
      outs:
        - data/rows/${key}.json
        - reports/metrics/${key}.json: {cache: false}
  report:
    cmd: sh report.sh
    deps: [data/rows]
    outs:
      - reports/figures
      - reports/tables: {cache: false}
"""
CHAIN = """
vars: [../../params.yaml]
stages:
  train_csr:
    foreach: {1: base}
    do:
      wdir: ../..
      cmd: mkdir -p models/csr-1 && echo ${lambda} > models/csr-1/adapter
      deps: [data/pool]
      params: [lambda]
      outs: [models/csr-1]
"""
REPORT = """mkdir -p reports/figures reports/tables
echo svg > reports/figures/a.svg
echo "# Results" > reports/tables/results.md
cat > reports/tables/results.csv <<TABLE
section,model,row,metric,value,se
CHAIR,csr-1,model,chair/chair_s,$(cat data/rows/csr-1.json),0.1
CHAIR,base,model,chair/chair_s,3,
TABLE
"""
PARAMS = "lambda: 0.9\nseed: 0\nruntime:\n  batch_size: 8\n"
OUTPUTS = 8


def run(folder: Path, *command: str, code: int = 0) -> str:
    """What a command prints; its exit code must be `code`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "ACCELERATE_", "GIT_", "MAKE"))}
    kept |= {"HOME": str(folder.parent), "DVC_NO_ANALYTICS": "1"}  # the remote lies there
    kept |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for who in ("AUTHOR", "COMMITTER"):
        kept |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@example.org"}
    done = subprocess.run(
        command, cwd=folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == code, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout}"
    return done.stdout


def commit(folder: Path) -> str:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message=step")
    return run(folder, "git", "rev-parse", "HEAD").strip()


@pytest.fixture(scope="module")
def committed(tmp_path_factory):
    """A repository whose run is committed and documented, as docs say: (folder, commit of the run)."""
    folder = tmp_path_factory.mktemp("committed") / "lookagain"
    texts = {"dvc.yaml": PIPELINE, "pipelines/csr/dvc.yaml": CHAIN, "report.sh": REPORT, "params.yaml": PARAMS}
    for name, text in (texts | {"presets/tiny.yaml": PARAMS, "docs/results.md": "# Results\n"}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    shutil.copytree(ROOT / "configs", folder / "configs")
    for name in ("Makefile", ".gitignore", ".dvcignore", ".dvc/config"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    run(folder, "git", "init", "--quiet", "--initial-branch=main")
    commit(folder)
    run(folder, "dvc", "repro")
    of_run = commit(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("ACCELERATE_CONFIG", raising=False)
        verify.write_results()
    commit(folder)
    return folder, of_run


@pytest.fixture
def repository(committed, tmp_path, monkeypatch):
    """A copy of the committed run, as the folder that commands run in; its outputs are there."""
    monkeypatch.delenv("ACCELERATE_CONFIG", raising=False)
    shutil.copytree(committed[0], tmp_path / "copy", symlinks=True)
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def lookagain(monkeypatch, capsys, *arguments):
    """Exit code and what was printed on standard output and error."""
    monkeypatch.setattr(sys, "argv", ["lookagain", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def flip(path: Path) -> None:
    """Change a byte of an output, whose size stays; a file that DVC linked is read-only."""
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.unlink()
    path.write_bytes(content)


def test_the_results_name_commit_preset_processes_and_cpu(committed, repository):
    head = verify.read_head()
    assert head == {"commit": committed[1], "preset": "tiny", **verify.hardware()}
    assert head["cpu"]
    assert head["cores"] > 0
    assert Path("docs/results.md").read_text().endswith("---\n# Results\n")


def test_equal_outputs_are_said_to_be_so(repository, monkeypatch, capsys):
    code, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert (code, out) == (0, f"{OUTPUTS} of {OUTPUTS} outputs are byte for byte those of the committed run\n")


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("data/pool/a", "prepare"),
        ("models/csr-1/adapter", "train_csr@1"),
        ("data/rows/base.json", "evaluate@base"),
        ("reports/metrics/csr-1.json", "evaluate@csr-1"),
        ("reports/tables/results.md", "report"),
        ("reports/figures/a.svg", "report"),
    ],
)
def test_a_flipped_byte_is_seen_in_its_stage(repository, monkeypatch, capsys, path, stage):
    flip(repository / path)
    code, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert code == 1
    assert f"{OUTPUTS - 1} of {OUTPUTS} outputs" in out
    assert f" of stage {stage} differs\n" in out
    assert "metrics that both results tables have are equal" in out


def test_the_first_stage_of_the_pipeline_is_named(repository, monkeypatch, capsys):
    for path in ("data/rows/base.json", "models/csr-1/adapter", "reports/figures/a.svg"):
        flip(repository / path)
    _, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert f"{OUTPUTS - 3} of {OUTPUTS} outputs" in out
    assert "models/csr-1 of stage train_csr@1 differs" in out


def test_a_missing_output_is_said_to_be_so(repository, monkeypatch, capsys):
    shutil.rmtree(repository / "models")
    code, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert (code, out.splitlines()[1]) == (1, "first in the pipeline, models/csr-1 of stage train_csr@1 is missing")


def test_changed_params_and_the_distance_of_the_metrics_are_said(repository, monkeypatch, capsys):
    (repository / "params.yaml").write_text("lambda: 0.5\nseed: 0\nruntime:\n  batch_size: 4\n")
    run(repository, "dvc", "repro")
    code, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert code == 1
    assert "models/csr-1 of stage train_csr@1 differs" in out
    assert "1 of 2 metrics differ, most chair/chair_s of csr-1: 0.5 here, 0.9 there (4 standard errors)\n" in out
    assert "params differ: lambda\n" in out


def test_other_processes_and_another_cpu_are_said(repository, monkeypatch, capsys):
    monkeypatch.setattr(verify, "accelerate_config", lambda: ("configs/accelerate/three.yaml", {"num_processes": 3}))
    monkeypatch.setattr(verify, "cores", lambda: 999)
    (repository / "docs/results.md").write_text(Path("docs/results.md").read_text().replace("cpu: ", "cpu: Other "))
    code, out, _ = lookagain(monkeypatch, capsys, "verify")
    assert code == 0
    assert "\nprocesses: 3 here, " in out
    assert "\ncores: 999 here, " in out
    assert " here, Other " in out


def test_another_commit_can_be_named(repository, monkeypatch, capsys):
    (repository / "params.yaml").write_text(PARAMS.replace("seed: 0", "seed: 1"))
    run(repository, "dvc", "repro")
    commit(repository)
    code, out, _ = lookagain(monkeypatch, capsys, "verify", "--commit", "HEAD")
    assert (code, out) == (0, f"{OUTPUTS} of {OUTPUTS} outputs are byte for byte those of commit HEAD\n")
    assert "prepare differs" in lookagain(monkeypatch, capsys, "verify")[1]


def failed(monkeypatch, capsys, *arguments):
    code, out, error = lookagain(monkeypatch, capsys, *arguments)
    assert (code, out, error.count("\n")) == (1, "", 1)
    return error


def test_without_a_committed_run_there_is_one_line(repository, monkeypatch, capsys):
    first = run(repository, "git", "rev-list", "--max-parents=0", "HEAD").strip()
    assert "has no dvc.lock" in failed(monkeypatch, capsys, "verify", "--commit", first)
    assert "no commit nowhere here" in failed(monkeypatch, capsys, "verify", "--commit", "nowhere")
    (repository / "docs/results.md").write_text("# Results\n")
    assert "no run is committed yet" in failed(monkeypatch, capsys, "verify")
    (repository / "docs/results.md").write_text("---\ncommit: [\n---\n")
    assert "not valid YAML" in failed(monkeypatch, capsys, "verify")
    (repository / "docs/results.md").unlink()
    assert "no run is committed yet" in failed(monkeypatch, capsys, "verify")


def test_outside_the_root_there_is_one_line(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository / "docs")
    assert "run from the repository's root" in failed(monkeypatch, capsys, "verify")


def test_without_git_there_is_one_line(repository, monkeypatch, capsys):
    shutil.rmtree(repository / ".git")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(repository.parent))
    assert "no git repository" in failed(monkeypatch, capsys, "verify")
    monkeypatch.setenv("PATH", "")
    assert "no git on PATH" in failed(monkeypatch, capsys, "verify")


def test_a_shallow_clone_says_how_to_get_the_commit(committed, tmp_path, monkeypatch, capsys):
    run(tmp_path, "git", "clone", "--quiet", "--depth=1", f"file://{committed[0]}", "clone")
    monkeypatch.chdir(tmp_path / "clone")
    assert "git fetch --unshallow" in failed(monkeypatch, capsys, "verify")


def test_results_are_written_of_a_committed_run_alone(repository, monkeypatch, capsys):
    written = Path("docs/results.md").read_bytes()
    (repository / "new.py").touch()
    assert "not committed: ?? new.py" in failed(monkeypatch, capsys, "docs")
    (repository / "new.py").unlink()
    flip(repository / "data/pool/a")  # git does not see it
    assert "the pipeline is not up to date" in failed(monkeypatch, capsys, "docs")
    run(repository, "dvc", "checkout", "--force")
    (repository / "report.sh").write_text(REPORT.replace("svg", "png", 1))
    pipeline = (repository / "dvc.yaml").read_text().replace("deps: [data/rows]", "deps: [data/rows, report.sh]")
    (repository / "dvc.yaml").write_text(pipeline)
    commit(repository)
    assert "the pipeline is not up to date, run `dvc repro`: report" in failed(monkeypatch, capsys, "docs")
    assert Path("docs/results.md").read_bytes() == written
    run(repository, "dvc", "repro")
    now = commit(repository)
    assert lookagain(monkeypatch, capsys, "docs")[0] == 0
    assert verify.read_head()["commit"] == now


def test_results_are_not_written_if_the_lock_has_outputs_of_another_run(repository, monkeypatch, capsys):
    pipeline = (repository / "dvc.yaml").read_text().replace("foreach: {base: 1, csr-1: 2}", "foreach: {csr-1: 2}")
    (repository / "dvc.yaml").write_text(pipeline)
    (repository / "data/rows/base.json").unlink()
    run(repository, "dvc", "repro")
    commit(repository)
    assert "of another run" in failed(monkeypatch, capsys, "docs")


def test_an_order_follows_deps_that_are_folders_of_outputs_or_files_in_them():
    entries = {
        "data/rows/a": Entry("evaluate", {}, {"models/a/adapter": ""}, {}),
        "report": Entry("report", {}, {"data/rows": ""}, {}),
        "models/a": Entry("train", {}, {"params.ok": ""}, {}),
        "data/rowset": Entry("other", {}, {"report": ""}, {}),
    }
    assert verify.in_pipeline_order(entries) == ["models/a", "data/rows/a", "report", "data/rowset"]


@pytest.fixture
def clone(committed, tmp_path):
    """A fresh clone, without cache, whose `make` finds the tools here; the remote would lie beside it."""
    run(tmp_path, "git", "clone", "--quiet", str(committed[0]), "clone")
    bin_folder = tmp_path / "clone/.venv/bin"
    bin_folder.mkdir(parents=True)
    for name, script in {"dvc": '"$PYTHON" -m dvc "$@"', "python": 'shift 2; exec "$@"', "lookagain": 'echo "$@"'}.items():
        (bin_folder / name).write_text(f"#!/bin/sh\n{script}\n".replace("$PYTHON", sys.executable))
        (bin_folder / name).chmod(0o755)
    (bin_folder.parent / ".ready").touch()
    return tmp_path / "clone"


def test_a_fresh_clone_runs_without_a_warning_and_makes_the_same(clone, monkeypatch, capsys):
    printed = run(clone, "make", "repro")
    assert "Running stage 'report'" in printed
    assert "WARNING" not in printed
    assert "pull" not in printed.lower()
    assert printed.endswith("verify\n")
    assert run(clone, "git", "status", "--porcelain") == ""
    monkeypatch.chdir(clone)
    assert lookagain(monkeypatch, capsys, "verify")[1].startswith(f"{OUTPUTS} of {OUTPUTS} outputs")


def test_a_fresh_clone_pulls_from_a_remote_that_has_the_run(clone, committed, tmp_path):
    run(committed[0], "dvc", "push", "--run-cache", "--remote=storage")
    shutil.move(committed[0].parent / "lookagain-remote", tmp_path / "lookagain-remote")
    printed = run(clone, "make", "repro")
    assert "Running stage" not in printed
    assert "WARNING" not in printed


def test_a_remote_that_has_a_part_warns_of_nothing(clone, committed, tmp_path):
    run(committed[0], "dvc", "push", "--remote=storage", "prepare")
    shutil.move(committed[0].parent / "lookagain-remote", tmp_path / "lookagain-remote")
    printed = run(clone, "make", "repro")
    assert "WARNING" not in printed
    assert "Running stage 'report'" in printed


def outs_of(path: Path) -> list[tuple[str, bool]]:
    """Each output of a dvc.yaml, and whether DVC's cache keeps it."""
    found = []
    for stage in YAML().load(path.read_text())["stages"].values():
        stage = stage.get("do", stage)
        for out in [*stage.get("outs", []), *stage.get("metrics", [])]:
            (name, settings) = (out, {}) if isinstance(out, str) else next(iter(out.items()))
            found.append((name.replace("${key}", "row").replace("${item}", "model"), settings.get("cache", True)))
    return found


@pytest.mark.parametrize("path", ["dvc.yaml", "pipelines/csr/dvc.yaml"])
def test_git_keeps_what_the_cache_does_not(path):
    for out, cached in outs_of(ROOT / path):
        ignored = subprocess.run(["git", "check-ignore", "--quiet", f"{out}/file"], cwd=ROOT, check=False).returncode == 0
        assert ignored == cached, f"{out}: DVC's cache keeps it ({cached}), git ignores it ({ignored})"
        assert cached or out.startswith("reports/"), f"{out}: data and models are the cache's"


def test_git_keeps_the_locks():
    for lock in ("dvc.lock", "pipelines/csr/dvc.lock"):
        assert subprocess.run(["git", "check-ignore", "--quiet", lock], cwd=ROOT, check=False).returncode == 1
