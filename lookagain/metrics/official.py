"""Publishers' files and answer files, read with errors that say which file, which line, and where the publisher offers it.

Answer files are JSON lines, or one JSON list, of objects that hold a question's id and the response.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lookagain.metrics.benchmark import BenchmarkError

# The names by which published answer files call a question's id and the response to it.
IDS = ("question_id", "questionId", "id")
RESPONSES = ("text", "answer", "response", "prediction", "output")

Content = TypeVar("Content")


def find(path: Path | str, names: Sequence[str], source: str) -> Path:
    """The first of the named files in a folder, or the file itself where `path` is one."""
    path = Path(path)
    if path.is_file():
        return path
    for name in names:
        if (path / name).is_file():
            return path / name
    where = path if path.is_dir() else f"{path} (no such folder)"
    raise BenchmarkError(f"none of {', '.join(names)} in {where}: get it from {source}")


def read_text(path: Path | str) -> str:
    """A text file, with or without a byte order mark."""
    path = Path(path)
    if path.is_dir():
        raise BenchmarkError(f"{path} is a folder: give one file of it")
    if not path.is_file():
        raise BenchmarkError(f"no file {path}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path} is no UTF-8 text: {error}") from error


def read_json(path: Path, source: str, unique: bool = False) -> Any:
    """What a JSON file holds; `unique`: no object in it may name a key twice (slower, for answers)."""
    hook = _unique if unique else None
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=hook)
    except FileNotFoundError as error:
        raise BenchmarkError(f"no file {path}: get it from {source}") from error
    except BenchmarkError as error:
        raise BenchmarkError(f"{path}: {error}") from error
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not JSON ({error}): get it again from {source}") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return dict(collect(("an object", key, content) for key, content in pairs))


def read_rows(path: Path | str) -> list[tuple[str, dict[str, Any]]]:
    """(where it stands, the object) for each entry of JSON lines or a JSON list."""
    path, text = Path(path), read_text(path)
    try:
        if text.lstrip().startswith("["):
            rows = [(f"{path}, entry {number}", row) for number, row in enumerate(json.loads(text), 1)]
        else:
            lines = enumerate(text.split("\n"), 1)  # not splitlines: a response may hold other line separators
            rows = [(f"{path}, line {number}", _line(path, number, line)) for number, line in lines if line.strip()]
    except BenchmarkError:
        raise
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path} is not a JSON list: {error}") from error
    if not rows:
        raise BenchmarkError(f"{path} is empty: it should be JSON lines or a JSON list")
    for where, row in rows:
        if not isinstance(row, dict):
            raise BenchmarkError(f"{where}: expected an object, got {str(row)[:60]!r}")
    return rows


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path}, line {number} is not JSON: {error}") from error


def read_answers(path: Path | str, ids: Sequence[str] = IDS, responses: Sequence[str] = RESPONSES) -> dict[str, str]:
    """Responses by question id from JSON lines or a JSON list: an id under the first of its names that a row has, one response."""
    return collect((where, value(where, row, ids), response(where, row, responses)) for where, row in read_rows(path))


def value(where: str, row: dict[str, Any], names: Sequence[str]) -> str:
    """The entry of a row under the first of the names that it has: text, or a number as text."""
    for name in names:
        if name in row:
            found = row[name]
            if isinstance(found, str | int | float) and not isinstance(found, bool):
                return str(found)
            raise BenchmarkError(f"{where}: {name} = {str(found)[:60]!r} must be text")
    raise BenchmarkError(f"{where}: needs {' or '.join(names)}, has {', '.join(map(str, row)) or 'nothing'}")


def response(where: str, row: dict[str, Any], names: Sequence[str] = RESPONSES) -> str:
    """The response of an answer file's row. Raises BenchmarkError if several entries could be it.

    An answer beside the row of a publisher's file stands beside the right answer, or the question, under a name such as these: to
    take the first would score a model by the reference.
    """
    if len(found := [name for name in dict.fromkeys(names) if name in row]) > 1:
        raise BenchmarkError(
            f"{where}: {' and '.join(found)} could each be the response; leave the model's alone in the row, and take the rest out"
        )
    return value(where, row, names)


def split_of(path: Path, splits: Sequence[str]) -> str:
    """The split that a file's name says."""
    named = [split for split in splits if split in path.stem]
    if len(named) != 1:
        raise BenchmarkError(f"{path}: its name must hold one of {', '.join(splits)}, to tell which questions these are")
    return named[0]


def collect(entries: Iterable[tuple[str, str, Content]]) -> dict[str, Content]:
    """(where, id, response) entries as a mapping. Raises BenchmarkError if an id repeats."""
    found: dict[str, Content] = {}
    for where, key, response in entries:
        if key in found:
            raise BenchmarkError(f"{where}: id {key!r} repeats; each question is answered once")
        found[key] = response
    return found


def entry(where: str, row: Any, names: Sequence[str]) -> list[Any]:
    """The named entries of a publisher's row. Raises BenchmarkError naming those that it lacks."""
    if not isinstance(row, dict):
        raise BenchmarkError(f"{where}: expected an object, got {str(row)[:60]!r}")
    if missing := [name for name in names if name not in row]:
        raise BenchmarkError(f"{where}: lacks {', '.join(missing)}; this is not the published format")
    return [row[name] for name in names]
