"""The OpenAI-compatible chat format: messages with images in, an answer and its version out, and how long to wait between."""

from __future__ import annotations

import base64
import email.utils
import json
import time
from typing import Any


def image_part(data: bytes, media_type: str = "image/jpeg") -> dict[str, Any]:
    """An image as part of a message's content, as a base64 data URL; text parts are {"type": "text", "text": ...}."""
    url = f"data:{media_type};base64,{base64.b64encode(data).decode('ascii')}"
    return {"type": "image_url", "image_url": {"url": url}}


def reminded(messages: list[dict[str, Any]], reminder: str) -> list[dict[str, Any]]:
    """The messages with the reminder at the end of the last one."""
    if not reminder:
        return messages
    last = messages[-1]
    if isinstance(last["content"], str):
        content: Any = f"{last['content']}\n{reminder}"
    else:
        content = [*last["content"], {"type": "text", "text": reminder}]
    return [*messages[:-1], {**last, "content": content}]


def content(body: str) -> tuple[str, str]:
    """Text and version of a chat completion; a body of another form gives an empty text, which is no verdict."""
    try:
        raw = json.loads(body)
        text = raw["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return "", ""
    version = " ".join(str(raw[name]) for name in ("model", "system_fingerprint") if raw.get(name))
    return text if isinstance(text, str) else "", version


def retry_after(header: str | None) -> float | None:
    """Seconds from a Retry-After header: a number or a date; None without one that can be read."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        try:
            return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
        except ValueError:
            return None
