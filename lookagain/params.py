"""Params: `params.yaml` is read once, in a stage, into the dataclasses of `schema.py`, and checked.

A preset is a whole params file: nothing is merged or inherited, every key is required, and an unknown or mistyped one is an
error that names the key, the value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from lookagain.errors import UserError
from lookagain.extensions import ExtensionError, require
from lookagain.schema import MAX_CSR_ITERATIONS, OwnMethod, Params


class ParamsError(UserError):
    """A params file that cannot be used: the message says which key, what was given and what is allowed."""


# Bounds by key name, whatever its section: (lowest, highest). Numbers without an entry must be finite and 0 or more.
BOUNDS: dict[str, tuple[float, float]] = {
    "lambda": (0, 1),
    "top_p": (1e-6, 1),
    "bad_prompt_share": (0, 1),
    "brightness": (0, 1),
    "hue": (0, 0.5),
    "warmup_ratio": (0, 1),
    "lora_dropout": (0, 0.999),
    "iterations": (1, MAX_CSR_ITERATIONS),
    "questions": (10, math.inf),  # MME has five kinds of two questions
    "description_share": (0, 1),
    "noise_step": (0, 999),
    "crop_share": (0.01, 1),
    **dict.fromkeys(
        (
            "batch_size micro_batch_size epochs max_length lora_rank lora_alpha images items candidates max_sentence_tokens "
            "max_sentences max_new_tokens keep_top low_resolution bootstrap max_image_pixels chair_images runs concurrency "
            "rejected copies verdict_tokens pool instruct validation test pope_per_image"
        ).split(),
        (1, math.inf),
    ),
}


NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")  # of what params name: it becomes a folder, and a part of a command
PUBLISHED = "data/published"  # the folders that `publish` lists, and what keeps it open in git
_NAMES: dict[type, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false", list: "a list"}


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a params file.

    Raises ParamsError if the file is missing, is no YAML, or holds an unknown, missing, mistyped or out-of-range key.
    """
    return check_params(read_raw(path), str(path))


def read_raw(path: Path | str = "params.yaml") -> dict[str, Any]:
    """A params file as plain nested values, unchecked. Raises ParamsError if it is missing or no YAML."""
    path = Path(path)
    if not path.is_file():
        raise ParamsError(f"no params file {path}: run from the repository's root, or `lookagain use tiny` to write one")
    try:
        return YAML(typ="safe", pure=True).load(path.read_text())
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from error


def check_params(raw: dict[str, Any], path: str) -> Params:
    """Params from plain nested values, checked as `load_params` does; `path` names them in errors."""
    raw = dict(raw) if isinstance(raw, dict) else raw
    own = _own_sections(raw, path)
    params: Params = dataclasses.replace(_build(Params, raw, "", path), own=own)
    _check_relations(params, path)
    return params


def section(params: Params, method: str) -> Any:
    """The section of a method that makes pairs: its `pairs` and `dpo`. Raises ParamsError if there is none."""
    found = params.own.get(method) or getattr(params, method, None)
    if not (hasattr(found, "pairs") and hasattr(found, "dpo")):
        known = [name for name in typing.get_type_hints(Params) if hasattr(getattr(params, name), "pairs")]
        raise ParamsError(
            f"params: methods names {method!r}, and no section of that name has pairs and dpo; those that have: "
            + ", ".join([*known, *params.own])
        )
    return found


def pair_settings(params: Params, method: str, kind: type) -> Any:
    """The `pairs` of a method as its source's `Settings`. Raises ParamsError for a key that these do not have."""
    settings = section(params, method).pairs
    return _build(kind, settings, f"{method}.pairs", "params.yaml") if isinstance(settings, dict) else settings


def _own_sections(raw: Any, path: str) -> dict[str, OwnMethod]:
    """Take the sections of methods that this module does not know out of a raw params file."""
    methods = raw.get("methods") if isinstance(raw, dict) else None
    if not isinstance(methods, dict):
        return {}
    known = {one.name for one in dataclasses.fields(Params)}
    names = [name for name in methods if isinstance(name, str) and name not in known and name in raw]
    return {name: _build(OwnMethod, raw.pop(name), name, path) for name in names}


def flatten(params: Any, prefix: str = "") -> dict[str, Any]:
    """Params as flat dotted keys, for tracking: {"lambda": 0.9, "stic.dpo.beta": 0.1, ...}."""
    if dataclasses.is_dataclass(params):
        params = {one.name.rstrip("_"): getattr(params, one.name) for one in dataclasses.fields(params)}
        params = params | params.pop("own", {})
    if not isinstance(params, dict):
        return {prefix.removesuffix("."): params}
    return {name: leaf for key, value in params.items() for name, leaf in flatten(value, f"{prefix}{key}.").items()}


def _build(cls: type, raw: Any, where: str, path: str) -> Any:
    """One dataclass from one YAML mapping, recursively."""
    if not isinstance(raw, dict):
        raise ParamsError(f"{path}: {where or 'the file'} must be a section of keys, got {raw!r}")
    hints = typing.get_type_hints(cls)
    fields = [one for one in dataclasses.fields(cls) if (cls, one.name) != (Params, "own")]
    names = {one.name.rstrip("_"): one.name for one in fields}
    optional = {one.name for one in fields if one.default is not dataclasses.MISSING}
    for key in raw:
        if key not in names:
            raise ParamsError(f"{path}: unknown key {_dotted(where, key)!r}; allowed here: {', '.join(names)}")
    for key, name in names.items():
        if key not in raw and name not in optional:
            raise ParamsError(f"{path}: missing key {_dotted(where, key)!r}; presets/tiny.yaml shows every key")
    return cls(**{name: _value(hints[name], raw[key], _dotted(where, key), path) for key, name in names.items() if key in raw})


def _value(kind: Any, raw: Any, where: str, path: str) -> Any:
    """One checked value. YAML readers disagree on `5e-7` (DVC writes it so): a string that spells a float is not one here,
    because ruamel reads YAML 1.2, where it is a float already."""
    if dataclasses.is_dataclass(kind):
        return _build(typing.cast(type, kind), raw, where, path)
    if isinstance(kind, types.UnionType):  # something, or null
        (kind,) = (part for part in typing.get_args(kind) if part is not type(None))
        return None if raw is None else _value(kind, raw, where, path)
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        if raw not in allowed or isinstance(raw, bool):
            raise ParamsError(f"{path}: {where} = {raw!r}, allowed: {', '.join(map(str, allowed))}")
        return raw
    if kind is Any:
        return raw
    if isinstance(kind, types.GenericAlias):
        *keys, item = typing.get_args(kind)
        if typing.get_origin(kind) is list:
            if not isinstance(raw, list) or any(raw.count(entry) > 1 for entry in raw):
                raise ParamsError(f"{path}: {where} = {raw!r} must be a list, each entry once")
            return [_value(item, entry, where, path) for entry in raw]
        if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
            raise ParamsError(f"{path}: {where} = {raw!r} must map names to {getattr(item, '__name__', item)}")
        for key in raw:
            _value(keys[0], key, f"a key of {where}", path)
        return {key: _value(item, entry, _dotted(where, key), path) for key, entry in raw.items()}
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        raw = float(raw)
    if raw is None:
        raise ParamsError(f"{path}: {where} has no value; presets/tiny.yaml shows one")
    if not isinstance(raw, kind) or isinstance(raw, bool) != (kind is bool):
        quoted = " (no quotes)" if isinstance(raw, str) else ""
        raise ParamsError(f"{path}: {where} = {raw!r} is {_NAMES.get(type(raw), 'a section')}, must be {_NAMES[kind]}{quoted}")
    if kind in (int, float):
        low, high = BOUNDS.get(where.rpartition(".")[2], (0, math.inf))
        if not (math.isfinite(raw) and low <= raw <= high):
            bounds = f"lie between {low:g} and {high:g}" if math.isfinite(high) else f"be finite and {low:g} or more"
            raise ParamsError(f"{path}: {where} = {raw!r} must {bounds}")
    return raw


def _check_relations(params: Params, path: str) -> None:
    """Checks that need two keys, and of names that a command or a path will hold."""
    names = {f"publish.{name}": name for name in params.publish}
    names |= {f"publish.{name}.checkpoint": publication.checkpoint for name, publication in params.publish.items()}
    for key, name in names.items():
        if not NAME.fullmatch(name):
            raise ParamsError(
                f"{path}: {key}: a name is of a-z, 0-9, '.', '_' and '-', and begins with a-z or 0-9, got {name!r}"
            )
    for key, value in flatten(params).items():
        if isinstance(value, str) and value.startswith(f"{PUBLISHED}/"):
            publication = value.split("/")[2]
            if publication not in params.publish:
                raise ParamsError(f"{path}: {key} = {value}, and publish names no {publication}")
            most = params.publish[publication].pool
            if key == "data.pool.images" and params.sample.images > most:
                raise ParamsError(f"{path}: sample.images = {params.sample.images} exceeds publish.{publication}.pool = {most}")
    if params.scorer.pretrained is not None and "/" in params.scorer.model:
        raise ParamsError(
            f"{path}: scorer.pretrained = {params.scorer.pretrained} goes with a name of open_clip's, and scorer.model = "
            f"{params.scorer.model} is a folder, which has its own weights: set pretrained to null"
        )
    if (params.data.pool.instances_json is None) != (params.data.pool.captions_json is None):
        raise ParamsError(f"{path}: data.pool.instances_json and captions_json go together: give both, or null for both")
    if params.csr.images > params.sample.images:
        raise ParamsError(f"{path}: csr.images = {params.csr.images} exceeds sample.images = {params.sample.images}")
    for method in ("povid", "self_rewarding"):
        asked = getattr(params, method).pairs.images
        if method in params.methods and asked > params.sample.images:
            raise ParamsError(f"{path}: {method}.pairs.images = {asked} exceeds sample.images = {params.sample.images}")
    for method in params.methods:
        section(params, method)
    if params.methods.get("stic") != "stic-stage1":
        raise ParamsError(f"{path}: methods must hold stic: stic-stage1, on which STIC's second stage stands; others may go")
    _check_names(params, path)
    if "self_rewarding" in params.methods and params.self_rewarding.pairs.temperature == 0:
        raise ParamsError(f"{path}: self_rewarding.pairs.temperature = 0 would draw each response twice; it must be over 0")
    for name, share in params.continued_sft.models.items():
        if not 0 < share <= 1:
            raise ParamsError(f"{path}: continued_sft.models.{name} = {share} must be a share over 0 and up to 1")
    if params.csr.init not in ("base", *params.evaluate.models):
        raise ParamsError(f"{path}: csr.init = {params.csr.init} must be a row of evaluate.models: CSR 1 is tested against it")
    if params.csr.search.proposal == "sample" and params.csr.search.temperature == 0:
        raise ParamsError(f"{path}: csr.search.temperature = 0 would propose one sentence many times; it must be over 0")
    if params.csr.search.candidates < 2:
        raise ParamsError(f"{path}: csr.search.candidates = {params.csr.search.candidates} must be 2 or more to make a pair")
    if params.evaluate.judge.base_url and not params.evaluate.judge.model:
        raise ParamsError(f"{path}: evaluate.judge.base_url is given, and no evaluate.judge.model: name the judge")
    if params.evaluate.split not in params.data.splits:
        raise ParamsError(f"{path}: evaluate.split = {params.evaluate.split}, and data.{params.evaluate.split} is null")
    for name in params.evaluate.benchmarks:
        if name.removesuffix("_ranking") not in params.data.splits[params.evaluate.split].benchmarks:
            raise ParamsError(
                f"{path}: evaluate.benchmarks names {name}, and data.{params.evaluate.split}.benchmarks does not say where it lies"
            )


def _check_names(params: Params, path: str) -> None:
    """Checks of names that say what another key, or a file, is called."""
    made = [*params.methods.values(), *params.continued_sft.models]
    csr = [f"csr-{number}" for number in range(1, MAX_CSR_ITERATIONS + 1)]
    for model in made:
        if made.count(model) > 1 or model in ("base", "scorer", "stic", *csr):
            raise ParamsError(
                f"{path}: methods or continued_sft.models name the model {model!r}, which something else makes too"
            )
    policies = ["base", "stic", *made, *csr[: params.csr.iterations]]
    for row, evaluated in params.evaluate.models.items():
        if evaluated.policy not in policies:
            raise ParamsError(
                f"{path}: evaluate.models.{row}.policy = {evaluated.policy}: no such policy; there are: {', '.join(policies)}"
            )
    try:
        require("rewards", params.csr.search.reward)
    except ExtensionError as error:
        raise ParamsError(f"{path}: csr.search.reward = {params.csr.search.reward}: {error}") from error


def _dotted(where: str, key: Any) -> str:
    return f"{where}.{key}" if where else str(key)
