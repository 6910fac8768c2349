"""The records that stages hand to each other: JSONL, one type per file, checked on write and on read.

Every id is a string. Files appear whole or not at all (written under a temporary name, then renamed).
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, TypeVar

from lookagain.errors import UserError


class RecordError(UserError):
    """A record or file that does not match its type: the message names the file, the line and the field."""


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen: greedy at temperature 0, else sampled from the top_p nucleus."""

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Provenance:
    """How a response was made: enough to make it again."""

    prompt: str  # what the model was asked, without the chat template
    image_transform: dict[str, Any]  # {"name": "none"}, {"name": "low_resolution", "size": 14}, ...
    decoding: dict[str, Any]  # temperature, top_p, max_new_tokens, or the search's settings
    seed: int
    score: float | None = None  # cumulative reward, where the method has one
    relevance: float | None = None  # mean R_I of its sentences (CSR Eq. 3), where the method scores them


@dataclass(frozen=True)
class Pair:
    """A preference pair; `rejected` holds one response or several (SeVa Eq. 18)."""

    id: str
    image_id: str
    method: str
    prompt: str  # the training prompt
    chosen: str
    rejected: list[str]
    chosen_provenance: Provenance
    rejected_provenance: list[Provenance]

    def check(self) -> None:
        """Raise RecordError unless each rejected response has its provenance."""
        if len(self.rejected) != len(self.rejected_provenance) or not self.rejected:
            raise RecordError(f"pair {self.id}: {len(self.rejected)} rejected, {len(self.rejected_provenance)} provenances")


@dataclass(frozen=True)
class Turn:
    """One exchange of a conversation."""

    prompt: str
    response: str


@dataclass(frozen=True)
class Conversation:
    """Instruction data: turns about one image."""

    id: str
    image_id: str
    turns: list[Turn]


@dataclass(frozen=True)
class Description:
    """A description of an image by a policy (STIC Algorithm 2)."""

    id: str
    image_id: str
    response: str
    provenance: Provenance


@dataclass(frozen=True)
class Question:
    """One benchmark item, as a policy is asked it."""

    id: str
    image_id: str
    benchmark: str
    split: str
    prompt: str
    reference: str  # the official answer, "" where scoring reads annotations


@dataclass(frozen=True)
class Answer:
    """A policy's response to a question, with its score or the reason why there is none."""

    id: str
    image_id: str
    benchmark: str
    split: str
    model: str  # the policy's fingerprint
    prompt: str
    response: str
    score: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Metric:
    """A figure of `reports/metrics/<model>.json`: a value with its standard error and 95% interval, or null with its reason."""

    value: float | None
    se: float | None = None
    n: int | None = None
    reason: str | None = None
    low: float | None = None
    high: float | None = None

    def check(self) -> None:
        """Raise RecordError unless there is either a value or a reason for none."""
        if (self.value is None) == (self.reason is None):
            raise RecordError(f"a metric has either a value or a reason: {self}")


Record = TypeVar("Record")


@contextmanager
def atomic_write(path: Path | str) -> Iterator[TextIO]:
    """Open a text file that replaces `path` when the block ends well, and leaves no trace when it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_records(path: Path | str, records: Iterable[Any]) -> int:
    """Write records as JSONL, atomically; returns how many."""
    count = 0
    with atomic_write(path) as file:
        for record in records:
            if hasattr(record, "check"):
                record.check()
            file.write(json.dumps(vars(record), default=vars, ensure_ascii=False) + "\n")  # asdict would copy it all
            count += 1
    return count


def read_records(path: Path | str, kind: type[Record]) -> list[Record]:
    """Read a JSONL file of one record type. Raises RecordError if a line does not match, or the file is missing."""
    return list(iter_records(path, kind))


def iter_records(path: Path | str, kind: type[Record]) -> Iterator[Record]:
    """The same, one record at a time: LLaVA's instructions would take gigabytes of memory together."""
    path = Path(path)
    if not path.is_file():
        raise RecordError(f"no file {path}: run the stage that makes it (`dvc repro` runs all that are missing)")
    with path.open(encoding="utf-8", newline="\n") as file:  # no other line break ends a record: texts may hold U+2028
        for number, line in enumerate(file, 1):
            try:
                yield from_dict(kind, json.loads(line))
            except (ValueError, TypeError) as error:
                raise RecordError(f"{path}, line {number}: not a {kind.__name__}: {error}") from error


def from_dict(kind: type[Record], raw: Any) -> Record:
    """A record from its dictionary form, with every field's type checked."""
    if not isinstance(raw, dict):
        raise RecordError(f"expected an object, got {raw!r}")
    hints, required = _fields(typing.cast(Any, kind))
    if unknown := raw.keys() - hints.keys():
        raise RecordError(f"unknown fields {sorted(unknown)}")
    if missing := required - raw.keys():
        raise RecordError(f"missing fields {sorted(missing)}")
    record = kind(**{name: _convert(hints[name], value, name) for name, value in raw.items()})
    if hasattr(record, "check"):
        record.check()
    return record


@functools.cache
def _fields(kind: type) -> tuple[dict[str, Any], frozenset[str]]:
    """A record's types by field, and the fields without a default: worked out once, for a file may have thousands of records."""
    fields = dataclasses.fields(typing.cast(Any, kind))
    hints = typing.get_type_hints(kind)
    required = frozenset(entry.name for entry in fields if entry.default is dataclasses.MISSING)
    return {entry.name: hints[entry.name] for entry in fields}, required


def _convert(kind: Any, value: Any, name: str) -> Any:
    if type(value) is kind:  # most are
        return value
    if dataclasses.is_dataclass(kind):
        return from_dict(typing.cast(type, kind), value)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        if value is None and type(None) in arguments:
            return None
        (kind,) = (argument for argument in arguments if argument is not type(None))
        return _convert(kind, value, name)
    if origin is list:
        if not isinstance(value, list):
            raise RecordError(f"{name} must be a list, got {value!r}")
        return [_convert(arguments[0], entry, name) for entry in value]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = origin or kind
    if expected is not Any and (not isinstance(value, expected) or isinstance(value, bool) != (expected is bool)):
        raise RecordError(f"{name} = {value!r} must be {expected.__name__}")
    return value


def write_metrics(path: Path | str, metrics: dict[str, Metric]) -> None:
    """Write `reports/metrics/<model>.json`: flat keys `benchmark/split/metric`, null always with its reason."""
    flat = {}
    for key, metric in metrics.items():
        metric.check()
        flat[key] = {name: value for name, value in dataclasses.asdict(metric).items() if value is not None or name == "value"}
    with atomic_write(path) as file:
        json.dump(flat, file, indent=1)
        file.write("\n")


def read_metrics(path: Path | str) -> dict[str, Metric]:
    """Read a metrics file written by `write_metrics`."""
    return {key: from_dict(Metric, entry) for key, entry in json.loads(Path(path).read_text()).items()}


def read_measured(path: Path | str, stage: str, **fields: Callable[[Any], Any]) -> dict[str, Any]:
    """The fields of the JSON file that a stage measured, each as its type; empty where the stage did not run.

    Raises RecordError for a malformed file.
    """
    path = Path(path)
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text())
        return {name: kind(found[name]) for name, kind in fields.items()}
    except (ValueError, TypeError, KeyError) as error:
        raise RecordError(f"{path} is malformed: {error!r}; run `dvc repro {stage}`") from error
