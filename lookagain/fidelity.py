"""`fidelity: paper | as_released` of each method: the switches in which the released code does not do what the paper says.

docs/methods.md describes each where it acts. They are params like any other: setting a method's fidelity writes all of its
switches into params.yaml, and changes nothing else of the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lookagain.errors import UserError
from lookagain.params import check_params, read_raw
from lookagain.records import atomic_write

FIDELITIES = ("paper", "as_released")
# Method -> dotted key -> (paper, as released).
SWITCHES: dict[str, dict[str, tuple[Any, Any]]] = {
    "stic": {
        "stic.pairs.corrupt": (True, False),
        "stic.dpo.image_token": (True, False),
        "stic.dpo.rejected_score": ("response", "top1"),
        "stic.infusion": ("paper", "as_released"),
        "stic.blind_dar": (False, True),
    },
    "seva": {
        "seva.pairs.copies": (1, 2),
        "seva.pairs.one_line": (False, True),
    },
    "csr": {
        "csr.search.proposal": ("sample", "group_beam"),
        "csr.search.keep_top": (2, 1),
        "csr.search.keep_bottom": (2, 2),
        "csr.search.reward": ("value", "rank"),
        "csr.search.language": ("product", "mean_logp"),
        "csr.search.prune_by": ("R", "R_T"),
        "csr.search.aggregate": ("sum", "mean"),
    },
}


class FidelityError(UserError):
    """No such method or fidelity, or a params file whose switch cannot be rewritten in place."""


def switches(method: str, fidelity: str) -> dict[str, Any]:
    """A method's switches at a fidelity, by dotted key. Raises FidelityError for an unknown one of either."""
    if method not in SWITCHES:
        raise FidelityError(f"no method {method!r} has released code that differs; methods: {', '.join(SWITCHES)}")
    if fidelity not in FIDELITIES:
        raise FidelityError(f"fidelity {fidelity!r}: allowed are {', '.join(FIDELITIES)}")
    place = FIDELITIES.index(fidelity)
    return {key: values[place] for key, values in SWITCHES[method].items()}


def fidelity_of(raw: Mapping[str, Any], method: str) -> str:
    """`paper`, `as_released`, or `mixed` where switches of a method differ from both."""
    now = {key: _at(raw, key) for key in SWITCHES[method]}
    return next((one for one in FIDELITIES if switches(method, one) == now), "mixed")


def set_fidelity(path: Path | str, method: str, fidelity: str) -> dict[str, tuple[Any, Any]]:
    """Write a method's switches into a params file; returns what changed: key -> (before, after).

    Comments, order and columns of the file stay. Raises FidelityError, and ParamsError if the file is no complete params file.
    """
    raw = read_raw(path)
    check_params(raw, str(path))
    wanted = switches(method, fidelity)
    changes = {key: (_at(raw, key), value) for key, value in wanted.items() if _at(raw, key) != value}
    text = Path(path).read_text(encoding="utf-8")
    for key, (_, value) in changes.items():
        text = replaced(text, key, value)
    with atomic_write(path) as file:
        file.write(text)
    return changes


def replaced(text: str, key: str, value: Any) -> str:
    """YAML text with another plain value of a dotted key. A comment behind the value keeps its column where it can."""
    node: Any = yaml.compose(text, yaml.SafeLoader)
    for part in key.split("."):
        entries = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((entry for name, entry in entries if name.value == part), None)
    if not isinstance(node, yaml.ScalarNode):
        raise FidelityError(f"{key} has no plain value in this file: {key}: {written(value)} is wanted")
    before, after = text[: node.start_mark.index], text[node.end_mark.index :]
    old, new = text[node.start_mark.index : node.end_mark.index], written(value)
    blanks = len(after) - len(after.lstrip(" "))
    if after[blanks : blanks + 1] == "#":
        after = " " * max(1, blanks + len(old) - len(new)) + after[blanks:]
    return before + new + after


def written(value: Any) -> str:
    """A switch's value as YAML writes it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _at(raw: Any, key: str) -> Any:
    for part in key.split("."):
        raw = raw[part]
    return raw
