"""What the judged benchmarks have in common: reading their publishers' files, and shares in percent."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from lookagain.metrics.benchmark import BenchmarkError


def read_text(path: Path, source: str) -> str:
    """A publisher's file as text. Raises BenchmarkError, which says where the publisher offers it."""
    if not path.is_file():
        raise BenchmarkError(f"no file {path}: get it from {source}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path} is not UTF-8 text: {error}") from error


def read_json(path: Path, source: str) -> Any:
    """A JSON file. Raises BenchmarkError."""
    try:
        return json.loads(read_text(path, source))
    except (json.JSONDecodeError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not JSON: {error}") from error


def read_lines(path: Path, source: str, needs: tuple[str, ...] = ()) -> list[dict[str, Any]]:
    """The objects of a JSONL file, each with the fields it needs. Raises BenchmarkError."""
    rows = []
    for number, line in enumerate(read_text(path, source).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise BenchmarkError(f"{path}, line {number}: not JSON: {error}") from error
        if not isinstance(row, dict) or not set(needs) <= row.keys():
            raise BenchmarkError(
                f"{path}, line {number}: needs an object with {', '.join(needs) or 'one entry'}, got {line[:80]!r}"
            )
        rows.append(row)
    return rows


def read_answer_map(path: Path) -> dict[str, str]:
    """Responses by id from one JSON object {id: response}. Raises BenchmarkError."""
    raw = read_json(path, "the model's run")
    if not isinstance(raw, dict) or not all(isinstance(text, str) for text in raw.values()):
        raise BenchmarkError(f"{path}: needs one JSON object that maps each question's id to the response's text")
    return raw


def refuse_repeats(path: Path, ids: list[str]) -> None:
    """Raise BenchmarkError if ids repeat, or there is none."""
    if not ids:
        raise BenchmarkError(f"{path}: holds no question")
    if repeated := [one for one, times in Counter(ids).items() if times > 1]:
        raise BenchmarkError(f"{path}: ids repeat: {repeated[:5]}")


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 part / whole; NaN where the whole is 0: a judge that gave no verdict measured nothing."""
    return 100 * part / np.where(whole == 0, np.nan, whole)
