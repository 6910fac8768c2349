"""The benchmark for GPUs runs whole on a CPU with a model of two layers."""

import json
from pathlib import Path

import pytest

from benchmarks import gpu


def test_tiny(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = gpu.main(tiny=True)
    assert [row["unit"] for row in rows] == ["tokens/s", "tokens/s", "candidates/s", "pairs/s"]
    assert all(row["rate"] > 0 and row["floor"] is None and row["peak_gb"] is None for row in rows)
    assert json.loads(Path("reports/bench-gpu.json").read_text())["tiny"] is True
    assert "DPO, rank 4" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no GPU here"):
        gpu.main(tiny=False)
