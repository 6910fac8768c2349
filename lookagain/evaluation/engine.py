"""Answers questions with a policy: each distinct one once, an image's together, and never one that was answered before.

The cache is one append-only file for each policy and version of the generating code (`cache_path`); its keys hash everything else
that an answer depends on. So a longer benchmark list computes the missing answers only, and changed weights never meet old answers.
Describe-and-respond (DaR, STIC section 4) describes each image once, and puts the description before every question about it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from lookagain import decoder, generation, policy, seeds, transforms
from lookagain.evaluation import suite
from lookagain.evaluation.questions import CHAIR_BENCHMARKS
from lookagain.generation import Decoding, Request
from lookagain.prompts import infuse

NO_IMAGE = ""  # in the place of an image id: the prompt is asked without an image
Respond = Callable[[Sequence[Request], Sequence[Decoding]], list[str]]  # requests about some images -> their responses
Rank = Callable[[Sequence[Request], Sequence[Sequence[str]]], list[list[float]]]  # one batch and its options -> their losses
MapBatches = Callable[[Sequence[Sequence[Request]], Callable[[Sequence[Request]], list[Any]], str], list[Any]]


@dataclass(frozen=True)
class Prompt:
    """What is shown and asked, and how the answer is drawn; with options, their losses are the answer, as a JSON list."""

    image_id: str
    text: str
    decoding: Decoding
    options: tuple[str, ...] = ()


def decoding_of(benchmark: str, description_tokens: int) -> Decoding:
    """How a benchmark's answers are drawn: greedy as in the papers, but chair_sampled at T = 1 from the whole distribution."""
    tokens = description_tokens if benchmark in CHAIR_BENCHMARKS else suite.max_new_tokens(benchmark)
    return Decoding(temperature=1.0 if benchmark == "chair_sampled" else 0.0, top_p=1.0, max_new_tokens=tokens)


def cache_path(folder: Path | str, fingerprint: str, dtype: str) -> Path:
    """The cache of a policy's answers, of which a change of the code that turns prompts into answers, or of its dtype, makes a new
    one."""
    digest = hashlib.sha256(dtype.encode())
    for module in (decoder, generation, policy, seeds, transforms):
        digest.update(Path(str(module.__file__)).read_bytes())
    for package in ("torch", "transformers"):
        digest.update(version(package).encode())
    return Path(folder) / f"{fingerprint}-{digest.hexdigest()[:16]}.jsonl"


class AnswerCache:
    """Responses by key in an append-only JSONL file; a line that a kill tore is ignored."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.responses: dict[str, str] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").split("\n"):
                self._read(line)

    def _read(self, line: str) -> None:
        try:
            entry = json.loads(line)
            self.responses[entry["key"]] = entry["response"]
        except (ValueError, TypeError, KeyError):
            pass  # torn by a kill, or blank: its answer is computed again

    def add(self, responses: dict[str, str], write: bool) -> None:
        """Remember responses, and append them to the file if `write` (one process does)."""
        self.responses |= responses
        if not (write and responses):
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = "".join(json.dumps({"key": key, "response": text}) + "\n" for key, text in responses.items())
        with self.path.open("ab", buffering=0) as file:
            # A torn line has no end: a newline first, so that it does not swallow the next answer.
            file.write(("\n" + lines).encode() if file.tell() else lines.encode())
            os.fsync(file.fileno())


@dataclass
class Engine:
    """A policy that can be asked. Counts what it took from the cache and what it computed."""

    respond: Respond
    rank: Rank
    map_batches: MapBatches
    image_sha256: Callable[[str], str]  # image id -> hash of its bytes
    cache: AnswerCache
    seed: int
    batch_size: int
    processes: int = 1  # that batches are dealt out to
    write: bool = True  # whether this process appends to the cache
    cached: int = field(default=0, init=False)
    computed: int = field(default=0, init=False)

    def key(self, prompt: Prompt) -> str:
        """The hash of all that an answer depends on beside weights and code. It is also the request's id, from which a sampled
        answer's random draws come: equal questions have equal answers."""
        decoding = vars(prompt.decoding)  # asdict would copy it, for every prompt
        content = [prompt.text, self.image_sha256(prompt.image_id), decoding, self.seed, prompt.options]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def answer(self, prompts: Sequence[Prompt], label: str) -> list[str]:
        """The responses to prompts, in order. `label` names the progress bar; a stage uses each label once."""
        keys = [self.key(prompt) for prompt in prompts]
        known = self._known(keys, label)
        ids: dict[str, str] = {}  # hash -> the first id of an image: benchmarks share images, but not ids
        missing = {
            key: dataclasses.replace(prompt, image_id=ids.setdefault(self.image_sha256(prompt.image_id), prompt.image_id))
            for key, prompt in zip(keys, prompts, strict=True)
            if key not in known
        }
        batches = make_batches(missing, self.batch_size, self.processes)

        def work(batch: Sequence[Request]) -> list[str]:
            asked = [missing[request.id] for request in batch]
            if asked[0].options:
                return [json.dumps(losses) for losses in self.rank(batch, [prompt.options for prompt in asked])]
            return self.respond(batch, [prompt.decoding for prompt in asked])

        responses = self.map_batches(batches, work, label) if batches else []
        asked = [request.id for batch in batches for request in batch]
        fresh = dict(zip(asked, responses, strict=True))
        self.cache.add(fresh, self.write)
        self.computed += len(fresh)
        self.cached += len(known)
        answers = known | fresh
        return [answers[key] for key in keys]

    def _known(self, keys: Sequence[str], label: str) -> dict[str, str]:
        """The cached responses to keys, as one process sees them and tells the others.

        Were each to read the cache on its own, a cache that another stage fills at this moment would give them other batches.
        """
        look = Request(id=hashlib.sha256("".join(keys).encode()).hexdigest(), image_id="", prompt="")
        found = {key: self.cache.responses[key] for key in keys if key in self.cache.responses}
        return self.map_batches([[look]], lambda _: [found], f"{label} known")[0]

    def describe(
        self, prompts: Sequence[Prompt], prompt: str, decoding: Decoding, label: str, form: str = "paper", blind: bool = False
    ) -> list[Prompt]:
        """DaR: the prompts, each with the policy's own description of its image before it.

        `form` is that of `prompts.infuse`. `blind` describes without the image, as STIC's released script does: one text for all.
        """
        images = [NO_IMAGE] if blind else sorted({asked.image_id for asked in prompts})
        descriptions = dict(zip(images, self.answer([Prompt(image, prompt, decoding) for image in images], label), strict=True))

        def infused(asked: Prompt) -> str:
            return infuse(descriptions[NO_IMAGE if blind else asked.image_id], asked.text, form)

        return [dataclasses.replace(asked, text=infused(asked)) for asked in prompts]


def make_batches(prompts: dict[str, Prompt], batch_size: int, processes: int = 1) -> list[list[Request]]:
    """All prompts about up to `batch_size` images at a time, so that each is encoded once; with options, `batch_size` rows.

    Images that are asked alike stand together, by their longest prompt, in as many batches for each process. The order of
    `prompts` is irrelevant.
    """
    groups: dict[int, dict[str, list[str]]] = {}  # number of options -> image -> keys
    for key, prompt in prompts.items():
        groups.setdefault(len(prompt.options), {}).setdefault(prompt.image_id, []).append(key)
    batches: list[list[str]] = []
    for options, images in sorted(groups.items()):

        def order(image: str, images: dict[str, list[str]] = images) -> tuple:
            asked = [prompts[key] for key in images[image]]
            kinds = sorted({dataclasses.astuple(prompt.decoding) for prompt in asked})
            return kinds, max(len(prompt.text) for prompt in asked), image

        ordered = [sorted(images[image], key=lambda key: (len(prompts[key].text), key)) for image in sorted(images, key=order)]
        if options:
            rows, step = list(chain(*ordered)), max(1, batch_size // options)
            batches += [rows[start : start + step] for start in range(0, len(rows), step)]
        else:
            step = math.ceil(len(ordered) / (processes * math.ceil(len(ordered) / (processes * batch_size))))
            batches += [list(chain(*ordered[start : start + step])) for start in range(0, len(ordered), step)]
    return [[Request(id=key, image_id=prompts[key].image_id, prompt=prompts[key].text) for key in batch] for batch in batches]
