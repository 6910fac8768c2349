"""The command line: what it does, and one clear line for bad input before any model loads."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lookagain import cli

ROOT = Path(__file__).parents[1]


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "presets").mkdir()
    for name in ("tiny", "smoke"):
        (tmp_path / "presets" / f"{name}.yaml").write_text((ROOT / "presets" / f"{name}.yaml").read_text())
    (tmp_path / "params.yaml").write_text((ROOT / "presets/tiny.yaml").read_text())
    Image.new("RGB", (40, 30), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_answer", lambda *_: pytest.fail("a model would have loaded"))
    return tmp_path


def run(monkeypatch, capsys, *arguments):
    """Exit code and what was printed on standard output and error."""
    monkeypatch.setattr(sys, "argv", ["lookagain", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_use_copies_a_preset(project, monkeypatch, capsys):
    code, _, _ = run(monkeypatch, capsys, "use", "smoke")
    assert code == 0
    assert (project / "params.yaml").read_bytes() == (project / "presets/smoke.yaml").read_bytes()


def test_use_refuses_an_unknown_or_broken_preset(project, monkeypatch, capsys):
    (project / "presets/broken.yaml").write_text("lambda: 2")
    for preset, message in (("huge", "presets: broken, smoke, tiny"), ("broken", "missing key")):
        code, _, error = run(monkeypatch, capsys, "use", preset)
        assert (code, error.count("\n")) == (1, 1)
        assert message in error
    assert (project / "params.yaml").read_bytes() == (project / "presets/tiny.yaml").read_bytes()


def test_fidelity_says_and_sets_what_a_method_is(project, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "fidelity")
    assert (code, printed) == (0, "stic: paper\nseva: paper\ncsr: mixed\n")
    assert run(monkeypatch, capsys, "fidelity", "seva")[1] == (
        "seva: paper\n  seva.pairs.copies: 1 (paper), 2 (as released)\n  seva.pairs.one_line: false (paper), true (as released)\n"
    )
    printed = run(monkeypatch, capsys, "fidelity", "seva", "as_released")[1]
    assert printed.startswith("seva.pairs.copies: 1 -> 2\nseva.pairs.one_line: false -> true\nseva is as_released")
    assert run(monkeypatch, capsys, "fidelity")[1].splitlines()[1] == "seva: as_released"
    code, _, error = run(monkeypatch, capsys, "fidelity", "stick")
    assert (code, error) == (1, "error: no method 'stick' has released code that differs; methods: stic, seva, csr\n")


def test_a_study_is_printed_and_its_experiments_are_told(project, monkeypatch, capsys):
    (project / "studies").mkdir()
    (project / "studies/world-results.yaml").write_text((ROOT / "studies/world-results.yaml").read_text())
    code, printed, _ = run(monkeypatch, capsys, "study")
    assert code == 0
    assert "Preset `tiny`" in printed
    assert "nothing is measured yet" in printed
    assert run(monkeypatch, capsys, "study", "--out", "page.md")[1] == "page.md: written\n"
    assert (project / "page.md").read_text() == printed
    code, printed, _ = run(monkeypatch, capsys, "grid", "world-results", "--dry-run")
    assert code == 0
    assert "-S publish.world.checkpoint=world-3 " in printed.splitlines()[-1]
    assert all("dvc --wait-for-lock exp run --temp --name world-results-" in line for line in printed.splitlines())
    code, _, error = run(monkeypatch, capsys, "study", "other")
    assert (code, error) == (1, "error: no study 'other'; studies: world-results\n")


def test_params_checks_the_file(project, monkeypatch, capsys):
    assert run(monkeypatch, capsys, "params")[0] == 0
    (project / "params.yaml").write_text((project / "params.yaml").read_text().replace("iterations: 3", "iterations: 9"))
    code, _, error = run(monkeypatch, capsys, "params")
    assert (code, error) == (1, "error: params.yaml: csr.iterations = 9 must lie between 1 and 8\n")


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("none.png", None, "no such image file"),
        ("text.png", b"this is no image", "not a readable image"),
        ("empty.png", b"", "not a readable image"),
        ("cut.png", "cut", "not a readable image"),
        ("large.png", "large", "exceeds data.max_image_pixels"),
    ],
)
def test_describe_refuses_bad_images(project, monkeypatch, capsys, name, data, message):
    if data == "cut":
        noise = Image.effect_noise((80, 80), 50)
        noise.save(project / name)
        data = (project / name).read_bytes()[:-900]
    elif data == "large":
        Image.new("1", (8000, 8000)).save(project / name)
        data = (project / name).read_bytes()
    if data is not None:
        (project / name).write_bytes(data)
    code, _, error = run(monkeypatch, capsys, "describe", name)
    assert (code, error.count("\n")) == (1, 1)
    assert name in error
    assert message in error


def test_describe_refuses_a_missing_model(project, monkeypatch, capsys):
    code, _, error = run(monkeypatch, capsys, "describe", "picture.png", "--model", "models/none")
    assert (code, error) == (1, "error: no model in models/none; there are: none yet, `dvc repro` trains them\n")


def test_describe_answers(policy_folder, tmp_path, monkeypatch, capsys):
    (tmp_path / "params.yaml").write_text((ROOT / "presets/smoke.yaml").read_text())
    Image.new("RGBA", (40, 30), (255, 0, 0, 128)).save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    plain = run(monkeypatch, capsys, "describe", "picture.png", "--model", str(policy_folder))
    dar = run(monkeypatch, capsys, "describe", "picture.png", "--model", str(policy_folder), "--dar", "--prompt", "a dog?")
    assert plain[0] == dar[0] == 0, plain[2] + dar[2]
    assert plain[1].strip()


def test_ui_names_a_taken_port(project, monkeypatch, capsys):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, _, error = run(monkeypatch, capsys, "ui", "--port", str(port))
    assert (code, error.count("\n")) == (1, 1)
    assert f"port {port} of 127.0.0.1 is taken" in error


def test_nothing_heavy_loads_at_start():
    code = "import sys, lookagain.cli; print([m for m in ('torch', 'transformers', 'mlflow', 'datasets') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_plan_prints_every_stage_and_names_the_gpus_it_knows(project, monkeypatch, capsys):
    code, printed, _ = run(monkeypatch, capsys, "plan", "--gpu", "a100", "--gpus", "4", str(ROOT / "presets/llava-1.5-7b.yaml"))
    assert code == 0
    assert "4 x a100" in printed
    assert "search@3" in printed
    code, _, error = run(monkeypatch, capsys, "plan", "--gpu", "abacus")
    assert (code, error.count("\n")) == (1, 1)
    assert "known are h200" in error


def test_export_needs_a_model_and_a_free_place(project, monkeypatch, capsys):
    for out, message in (("elsewhere", "no policy in models/none"), ("presets", "presets exists already")):
        code, _, error = run(monkeypatch, capsys, "export", "models/none", out)
        assert (code, error.count("\n")) == (1, 1)
        assert message in error
    assert not (project / "elsewhere").exists()
