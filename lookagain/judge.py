"""A judge: a language model behind an OpenAI-compatible chat endpoint, asked many questions at once, each at most once.

Verdicts are cached in an append-only JSONL file under a hash of (base_url, model, messages, temperature, max_tokens, run): a
model of the same name elsewhere is another judge. The text is kept and parsed anew, so that a mended parser needs no new requests.
What can pass (a timeout, a broken connection, 408, 429, 5xx) is tried again with exponential backoff and jitter, a Retry-After is
obeyed; an answer that is no verdict is asked again with a reminder. What then has no verdict is a failure, counted with its
reason: it never becomes a score. A wrong address, key or model name ends the run with a UserError instead, as no question would
fare better.

The key goes into one header of requests to `base_url` and nowhere else: redirections are not followed, proxy settings are not read.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import threading
import urllib.parse
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookagain import chat
from lookagain.errors import UserError

if TYPE_CHECKING:
    import aiohttp

# The reason of a judged metric that is null because there was nobody to ask.
NO_JUDGE = "no judge: no endpoint was given, so the answers were not judged"
KEY_VARIABLE = "LOOKAGAIN_JUDGE_KEY"

PASSING = {408, 429}  # and 5xx: worth another try
HOPELESS = {301, 302, 303, 307, 308, 401, 403, 404, 405}  # the same for every question
_APPEND = threading.Lock()


class JudgeError(UserError):
    """A judge that cannot be asked at all: the message says what is wrong with its address, key or name, never the key itself."""


@dataclass(frozen=True)
class Ask:
    """One request for a verdict."""

    messages: list[dict[str, Any]]
    parse: Callable[[str], tuple[float, ...] | None]  # None: the text is no verdict
    temperature: float
    max_tokens: int
    run: int = 0  # tells apart repeated judgements of one answer
    reminder: str = ""  # added to the last message after an answer that is no verdict


@dataclass(frozen=True)
class Verdict:
    """What came of a request: a value, or None with its reason."""

    value: tuple[float, ...] | None
    text: str = ""  # the judge's words
    version: str = ""  # the model and fingerprint that the endpoint reports
    reason: str | None = None


class _Passing(Exception):
    """A failed request that may succeed later; `wait` seconds are what the endpoint asks for, if it does."""

    def __init__(self, kind: str, wait: float | None = None):
        super().__init__(kind)
        self.wait = wait


class _Refused(Exception):
    """A request that the endpoint will not answer however often it is sent."""


def key_from_environment(environment: Mapping[str, str], variable: str = KEY_VARIABLE) -> str:
    """The key, for callers to pass on (`os.environ` comes from them). Raises JudgeError if the variable is unset or empty."""
    key = environment.get(variable, "").strip()
    if not key:
        raise JudgeError(f"the judge needs a key: set {variable} (any word, if the endpoint asks for none)")
    return key


class Judge:
    """A model at an endpoint. `asked` counts requests sent, `cached` verdicts read, `failures` questions without one, by reason."""

    def __init__(
        self,
        base_url: str,  # with the version: https://api.openai.com/v1
        model: str,
        key: str,
        *,
        concurrency: int = 8,  # requests under way at once
        timeout: float = 120.0,  # seconds for one request
        retries: int = 6,  # further tries of a request that may pass
        nonsense_retries: int = 2,  # further tries after an answer that is no verdict
        backoff: float = 1.0,  # seconds before the first further try, doubled each time
        longest_wait: float = 120.0,  # seconds; an endpoint that asks for more is not waited for
        cache_path: Path | str | None = None,
    ):
        self.base_url = _checked_url(base_url)
        if not model:
            raise JudgeError("the judge has no model name: give the one that the endpoint lists")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise JudgeError("the judge's key is missing or holds blanks or unprintable characters: set it again")
        if concurrency < 1 or retries < 0 or nonsense_retries < 0 or timeout <= 0:
            raise JudgeError(
                f"{concurrency=}, {timeout=}: must be positive; {retries=}, {nonsense_retries=}: must not be negative"
            )
        self.model = model
        self.concurrency, self.timeout = concurrency, timeout
        self.retries, self.nonsense_retries = retries, nonsense_retries
        self.backoff, self.longest_wait = backoff, longest_wait
        self.asked = self.cached = 0
        self.failures: Counter[str] = Counter()
        self.versions: Counter[str] = Counter()
        # The key lives in these two closures alone, out of sight of repr, vars and pickles.
        self._headers = lambda: {"Authorization": f"Bearer {key}"}
        self._redact: Callable[[str], str] = lambda text: text.replace(key, "[key]")
        self._cache = _Cache(cache_path)

    def __repr__(self) -> str:
        return f"Judge({self.base_url!r}, {self.model!r})"

    def verdicts(self, asks: Sequence[Ask]) -> list[Verdict]:
        """The verdicts in order; equal requests are sent once. Raises JudgeError if the judge cannot be asked at all."""
        return asyncio.run(self.verdicts_async(asks))

    async def verdicts_async(self, asks: Sequence[Ask]) -> list[Verdict]:
        """`verdicts`, for a caller that has an event loop."""
        keys = [self._key(ask) for ask in asks]
        found = {key: self._recall(key, ask) for key, ask in zip(keys, asks, strict=True)}
        missing = {key: ask for key, ask in zip(keys, asks, strict=True) if found[key] is None}
        if missing:
            await self._check_reachable()
            found |= await self._ask_all(missing)
        verdicts = [verdict for key in keys if (verdict := found[key]) is not None]
        self.versions.update(verdict.version for verdict in verdicts if verdict.version)
        return verdicts

    def summary(self) -> dict[str, Any]:
        """Who judged and how it went, for the results: name, versions with their verdicts, requests, failures by reason."""
        return {
            "judge": self.model,
            "versions": dict(self.versions),
            "asked": self.asked,
            "cached": self.cached,
            "failures": dict(self.failures),
        }

    def _key(self, ask: Ask) -> str:
        parts = [self.base_url, self.model, ask.messages, ask.temperature, ask.max_tokens, ask.run]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _recall(self, key: str, ask: Ask) -> Verdict | None:
        entry = self._cache.entries.get(key)
        value = ask.parse(entry["text"]) if entry else None
        if entry is None or value is None:
            return None
        self.cached += 1
        return Verdict(value, entry["text"], entry["version"])

    async def _check_reachable(self) -> None:
        address = urllib.parse.urlsplit(self.base_url)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            _, writer = await asyncio.wait_for(asyncio.open_connection(address.hostname, port), self.timeout)
        except OSError as error:  # a TimeoutError is one
            raise JudgeError(
                f"no judge answers at {self.base_url}: {error or 'timeout'}; start it, or correct base_url"
            ) from error
        writer.close()

    async def _ask_all(self, asks: dict[str, Ask]) -> dict[str, Verdict]:
        import aiohttp  # an evaluation without a judge does without

        slots = asyncio.Semaphore(self.concurrency)
        timeout = aiohttp.ClientTimeout(total=self.timeout)
        async with aiohttp.ClientSession(timeout=timeout, headers=self._headers(), trust_env=False) as session:

            async def one(key: str, ask: Ask) -> Verdict:
                async with slots:  # held while waiting too, so that a rate limit slows all down
                    return await self._judge(session, key, ask)

            try:
                async with asyncio.TaskGroup() as group:
                    tasks = {key: group.create_task(one(key, ask)) for key, ask in asks.items()}
            except BaseExceptionGroup as errors:
                raise errors.exceptions[0] from None
        return {key: task.result() for key, task in tasks.items()}

    async def _judge(self, session: aiohttp.ClientSession, key: str, ask: Ask) -> Verdict:
        """One verdict: the first answer that parses, kept in the cache, or a counted failure."""
        text, version, messages = "", "", ask.messages
        settings = {"model": self.model, "temperature": ask.temperature, "max_tokens": ask.max_tokens}
        for _ in range(1 + self.nonsense_retries):
            try:
                text, version = await self._complete(session, {**settings, "messages": messages})
            except (_Passing, _Refused) as error:
                self.failures[str(error).split(":")[0]] += 1
                return Verdict(None, reason=f"judge failed: {error}")
            value = ask.parse(text)
            if value is not None:
                self._cache.append(key, {"model": self.model, "version": version, "text": text})
                return Verdict(value, text, version)
            messages = chat.reminded(ask.messages, ask.reminder)
        self.failures["no verdict"] += 1
        return Verdict(None, text, version, reason="judge failed: its answers hold no verdict")

    async def _complete(self, session: aiohttp.ClientSession, payload: dict[str, Any]) -> tuple[str, str]:
        """The answer's text and the version that gave it, after as many tries as it takes and `retries` allows."""
        for attempt in range(self.retries + 1):
            try:
                return await self._post(session, payload)
            except _Passing as error:
                wait = max(error.wait or 0.0, self._backoff(attempt))
                if attempt == self.retries or wait > self.longest_wait:
                    raise
                await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _backoff(self, attempt: int) -> float:
        return min(self.backoff * 2**attempt, self.longest_wait) * random.uniform(0.5, 1.0)

    async def _post(self, session: aiohttp.ClientSession, payload: dict[str, Any]) -> tuple[str, str]:
        """One request. Raises _Passing, _Refused, or JudgeError where every request would fail."""
        import aiohttp

        self.asked += 1
        try:
            async with session.post(f"{self.base_url}/chat/completions", json=payload, allow_redirects=False) as response:
                status, wait = response.status, chat.retry_after(response.headers.get("Retry-After"))
                body = (await response.read()).decode("utf-8", "replace")
        except TimeoutError as error:
            raise _Passing("timeout") from error
        except aiohttp.ClientError as error:
            raise _Passing(f"connection: {type(error).__name__}") from error
        if status in PASSING or status >= 500:
            raise _Passing(f"HTTP {status}", wait)
        if status in HOPELESS:
            raise JudgeError(
                f"{self.base_url} answers HTTP {status}: check base_url, the model name {self.model!r} and the key"
            )
        if status != 200:
            raise _Refused(f"HTTP {status}: {self._redact(body)[:200]}")
        return chat.content(body)


class _Cache:
    """Answers by key in a JSONL file that is only ever appended to; a line that was cut off or spoilt is ignored."""

    def __init__(self, path: Path | str | None):
        self.path = None if path is None else Path(path)
        self.entries: dict[str, dict[str, str]] = {}
        self._torn = False  # whether the file ends in the middle of a line, as a killed run leaves it
        if self.path is not None and self.path.exists():
            lines = self.path.read_bytes().split(b"\n")
            self._torn = bool(lines[-1])
            for entry in filter(None, map(_cache_entry, lines)):
                self.entries[entry["key"]] = entry

    def append(self, key: str, entry: dict[str, str]) -> None:
        """Keep an answer, whole or not at all."""
        self.entries[key] = {"key": key, **entry}
        if self.path is None:
            return
        line = json.dumps(self.entries[key]).encode() + b"\n"
        with _APPEND:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"\n" + line if self._torn else line)
            self._torn = False


def _cache_entry(line: bytes) -> dict[str, str] | None:
    try:
        entry = json.loads(line)
        return {name: str(entry[name]) for name in ("key", "model", "version", "text")}
    except (ValueError, KeyError, TypeError):
        return None


def _checked_url(base_url: str) -> str:
    remedy = "give the address before /chat/completions, such as https://api.openai.com/v1"
    if any(mark in base_url for mark in "@?#"):
        raise JudgeError(f"the judge's base_url holds a user, query or fragment: {remedy}, and the key apart from it")
    try:
        parts = urllib.parse.urlsplit(base_url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise JudgeError(f"the judge's base_url {base_url!r} is no http or https address: {remedy}")
    return base_url.rstrip("/")
