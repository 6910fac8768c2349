"""Modules found by their file's name: pair sources in lookagain/sources/, rewards in lookagain/rewards/. A new file is enough."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

from lookagain.errors import UserError


class ExtensionError(UserError):
    """A name without a file, or a file without what it must define; the message lists the files that exist."""


def find(package: str, name: str, function: str) -> ModuleType:
    """The module `lookagain.<package>.<name>`, which must define `function`. Raises ExtensionError."""
    require(package, name)
    module = importlib.import_module(f"lookagain.{package}.{name}")
    if not hasattr(module, function):
        raise ExtensionError(
            f"lookagain/{package}/{name}.py defines no {function}: docs/own-method.md shows what it must look like"
        )
    return module


def require(package: str, name: str) -> None:
    """Raise ExtensionError unless there is a file `lookagain/<package>/<name>.py`; nothing is imported."""
    known = sorted(path.stem for path in (Path(__file__).parent / package).glob("*.py") if not path.stem.startswith("_"))
    if name not in known:
        raise ExtensionError(f"no file lookagain/{package}/{name}.py; there are: {', '.join(known)} (docs/own-method.md)")
