"""Switches of fidelity: a params file with other values and the same comments; docs and presets say the same."""

import re
from pathlib import Path

import pytest

from lookagain import fidelity
from lookagain.params import check_params, flatten, load_params, read_raw

ROOT = Path(__file__).parents[1]


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "presets/tiny.yaml").read_text())
    return path


def test_a_methods_switches_are_written_and_nothing_else(params):
    before, text = flatten(load_params(params)), params.read_text()
    changes = fidelity.set_fidelity(params, "stic", "as_released")
    assert changes["stic.dpo.rejected_score"] == ("response", "top1")
    assert len(changes) == 5
    after = flatten(load_params(params))
    assert {key for key in after if after[key] != before[key]} == set(changes)
    assert fidelity.fidelity_of(read_raw(params), "stic") == "as_released"
    changed = [new for old, new in zip(text.splitlines(), params.read_text().splitlines(), strict=True) if old != new]
    assert (
        "    corrupt: false             # false: released code, which records the corruption and shows the clean image"
        in changed
    )
    assert len(changed) == 5
    assert fidelity.set_fidelity(params, "stic", "as_released") == {}
    fidelity.set_fidelity(params, "stic", "paper")
    assert params.read_text() == text


def test_all_methods_as_released_are_the_preset(params):
    for method in fidelity.SWITCHES:
        fidelity.set_fidelity(params, method, "as_released")
    released = load_params(ROOT / "presets/tiny-as-released.yaml")
    assert flatten(load_params(params)) == flatten(released)


def test_tiny_does_what_the_papers_say_but_for_csrs_mean():
    raw = read_raw(ROOT / "presets/tiny.yaml")
    assert [fidelity.fidelity_of(raw, method) for method in ("stic", "seva", "csr")] == ["paper", "paper", "mixed"]
    raw["csr"]["search"]["aggregate"] = "sum"
    assert fidelity.fidelity_of(raw, "csr") == "paper"
    check_params(raw, "params.yaml")


def test_docs_list_the_same_switches():
    rows = re.findall(r"^\| `(\S+)` \| `(\S+)` \| `(\S+)` \|", (ROOT / "docs/methods.md").read_text(), re.MULTILINE)
    listed = {key: (paper, released) for key, paper, released in rows}
    assert listed == {
        key: tuple(map(fidelity.written, values)) for own in fidelity.SWITCHES.values() for key, values in own.items()
    }


def test_values_in_place():
    assert fidelity.replaced("a:\n  b: true  # why\nc: 1\n", "a.b", False) == "a:\n  b: false # why\nc: 1\n"
    assert fidelity.replaced("a: {b: 2, c: x}\n", "a.b", 10) == "a: {b: 10, c: x}\n"
    with pytest.raises(fidelity.FidelityError, match=r"a\.c has no plain value"):
        fidelity.replaced("a: {b: 2}\n", "a.c", 1)


@pytest.mark.parametrize(
    ("method", "to", "message"), [("povid", "paper", "methods: stic, seva, csr"), ("csr", "code", "as_released")]
)
def test_unknown_names_are_refused(params, method, to, message):
    text = params.read_text()
    with pytest.raises(fidelity.FidelityError, match=message):
        fidelity.set_fidelity(params, method, to)
    assert params.read_text() == text
