"""The policy: a base model and its chain of adapters, with the template, image and token handling that all stages share.

A policy folder holds `lineage.json`, which names a base (a folder, or a hub id with its revision), and adapters, each merged in
order into what came before. Generation, search, training and evaluation know models through this module only.

A prompt is two pieces: the prefix up to its last image token, which depends on the image alone, and the rest of the chat
template with the prompt's text, which depends on the prompt alone. Each is tokenised and encoded once.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import json
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, DynamicCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging

from lookagain.errors import UserError
from lookagain.records import atomic_write
from lookagain.schema import Loading
from lookagain.transforms import Noised, Shown, diffuse


class PolicyError(UserError):
    """A policy folder or model that cannot be used; the message says what is wrong and what to do."""


@dataclass(frozen=True)
class Lineage:
    """What a policy is made of."""

    folder: Path
    base: Path  # the base's policy folder
    base_fingerprint: str
    adapters: list[Path]  # in the order of merging; empty for the base itself
    fingerprint: str


class Prefixes(NamedTuple):
    """The prompt prefixes of some images, one entry per image in each list."""

    ids: list[list[int]]  # token ids, the image's tokens expanded
    features: list[Tensor | None]  # (image tokens, width); None where there is no image
    positions: list[Tensor]  # (axes, length): 1 axis, or 3 where the model places image tokens in time, height and width


@dataclass
class Policy:
    """A loaded model with its processor. `model` is a transformers image-text-to-text model, in training wrapped by PEFT.

    With `pad_images` the processor gets images as squares (`squared`).
    """

    model: Any
    processor: Any
    lineage: Lineage
    pad_images: bool = False

    def __post_init__(self) -> None:
        self.tokenizer = self.processor.tokenizer
        self.image_token: str = getattr(self.processor, "image_token", None) or self.tokenizer.image_token
        self.eos: int = self.tokenizer.eos_token_id
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.pad: int = self.tokenizer.pad_token_id
        self.suffix = functools.cache(self._suffix)

    @property
    def fingerprint(self) -> str:
        """Identifies the weights: base and adapters."""
        return self.lineage.fingerprint

    @property
    def device(self) -> torch.device:
        """Where the model's weights are."""
        return next(self.model.parameters()).device

    @functools.cached_property
    def shares_prefixes(self) -> bool:
        """Whether several texts can follow one prefix in a row: by a mask of who sees whom, in layers that all see everything."""
        config = self.model.config.get_text_config()
        layers = DynamicCache(config=config).layers
        return config._attn_implementation == "sdpa" and all(type(layer) is DynamicLayer for layer in layers)

    def prefixes(self, images: Sequence[Shown]) -> Prefixes:
        """Each image's prompt prefix: token ids, features and positions.

        No image (None) has the prefix without the image's tokens, and no features: that is what a prompt without an image token
        makes of LLaVA. Raises PolicyError if tokens and features do not match: a model that never saw its image would answer all
        the same.
        """
        head = self._split(self._chat([("", None)]))[0]
        seen = iter(self._encoded([image for image in images if image is not None], head))
        blind = list(self.tokenizer(head.replace(self.image_token, ""), add_special_tokens=self._adds_bos(head)).input_ids)
        nothing = (blind, None, torch.arange(len(blind), device=self.device)[None])
        rows: list[tuple[list[int], Tensor | None, Tensor]] = [nothing if image is None else next(seen) for image in images]
        axes = max(len(positions) for *_, positions in rows)
        return Prefixes(
            [ids for ids, _, _ in rows],
            [features for _, features, _ in rows],
            [positions.expand(axes, -1) for *_, positions in rows],
        )

    def _encoded(self, images: Sequence[Image.Image | Noised], head: str) -> list[tuple[list[int], Tensor, Tensor]]:
        """Token ids of `head` for each image, its features and positions."""
        if not images:
            return []
        inner = self._inner()
        encoded = self.processor(
            images=[[self._seen(image)] for image in images],
            text=[head] * len(images),
            add_special_tokens=self._adds_bos(head),
            padding=True,
            return_tensors="pt",
        ).to(self.device)
        kept = encoded["attention_mask"].bool()
        ids = [row[mask].tolist() for row, mask in zip(encoded["input_ids"], kept, strict=True)]
        with torch.no_grad():
            vision = _accepted(type(inner).get_image_features, encoded)
            vision["pixel_values"] = _noised(vision, images).to(inner.dtype)
            features = list(inner.get_image_features(**vision).pooler_output)
        for row, feature in zip(ids, features, strict=True):
            if row.count(inner.config.image_token_id) != len(feature) or not len(feature):
                raise PolicyError(
                    f"{row.count(inner.config.image_token_id)} image tokens in the prompt, {len(feature)} image features: "
                    "they must match"
                )
        return list(zip(ids, features, _positions(inner.base_model, encoded), strict=True))

    def _seen(self, image: Image.Image | Noised) -> Image.Image:
        """What the processor gets of an image that is shown."""
        plain = image.image if isinstance(image, Noised) else image
        return squared(plain, self.processor.image_processor.image_mean) if self.pad_images else plain

    def _suffix(self, prompt: str) -> list[int]:
        """Token ids of the chat template after the image, up to where the response to `prompt` begins."""
        return self._after_image(self._split(self._chat([(prompt, None)]))[1])

    def conversation(self, turns: Sequence[tuple[str, str]]) -> tuple[list[int], list[bool]]:
        """Token ids after the image of (prompt, response) turns, and which of them are responses; each response ends with EOS."""
        ids, is_response = list(self.suffix(turns[0][0])), [False] * len(self.suffix(turns[0][0]))
        for number, (_, response) in enumerate(turns):
            if number:
                before = self._chat([(prompt, answer) for prompt, answer in turns[:number]])
                if before.rstrip().endswith(self.tokenizer.eos_token):  # what follows EOS belongs to the next turn
                    before = before.rstrip()
                between = self._chat([*turns[:number], (turns[number][0], None)])[len(before) :]
                piece = self.tokenizer(between, add_special_tokens=False).input_ids
                ids, is_response = ids + piece, is_response + [False] * len(piece)
            piece = [*self.response(turns[number][0], response), self.eos]
            ids, is_response = ids + piece, is_response + [True] * len(piece)
        return ids, is_response

    def response(self, prompt: str, response: str) -> list[int]:
        """A response's token ids as they follow its prompt, without EOS."""
        before, whole = self._chat([(prompt, None)]), self._chat([(prompt, response)])
        text = whole[len(before) :] if whole.startswith(before) else response
        text = text.rstrip().removesuffix(self.tokenizer.eos_token or "\0").rstrip()
        suffix, tail = self.suffix(prompt), self._split(before)[1]
        ids = self._after_image(tail + text)
        return ids[len(suffix) :] if ids[: len(suffix)] == suffix else self.tokenizer(text, add_special_tokens=False).input_ids

    def text(self, ids: Sequence[int]) -> str:
        """The text of response tokens."""
        return self.tokenizer.decode(list(ids), skip_special_tokens=True).strip()

    def forward(
        self, ids: Tensor, features: Sequence[Tensor | None] | None = None, positions: Tensor | None = None, **arguments: Any
    ) -> Any:
        """The model's own forward on token ids (rows, length), with the image features of the rows' images, in order."""
        return forward(self.model, ids, features, positions, **arguments)

    def _inner(self) -> Any:
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # PEFT has wrapped it

    def _chat(self, turns: Sequence[tuple[str, str | None]]) -> str:
        """The chat template's text of turns with the image in the first; a last response of None is left to generate."""
        messages: list[dict] = []
        for number, (prompt, response) in enumerate(turns):
            image = [{"type": "image"}] if number == 0 else []
            messages.append({"role": "user", "content": [*image, {"type": "text", "text": prompt}]})
            if response is not None:
                messages.append({"role": "assistant", "content": [{"type": "text", "text": response}]})
        return self.processor.apply_chat_template(messages, add_generation_prompt=turns[-1][1] is None, tokenize=False)

    def _split(self, text: str) -> tuple[str, str]:
        """A chat text up to and with its image token, and the rest."""
        head, token, tail = text.partition(self.image_token)
        if not token or self.image_token in tail:
            raise PolicyError(
                f"the chat template must put one image token {self.image_token!r} into a prompt, got {text[:80]!r}"
            )
        return head + token, tail

    def _after_image(self, tail: str) -> list[int]:
        # Tokenised behind the image token, as it stands in the whole prompt: some tokenizers treat a text's start apart.
        return self.tokenizer(self.image_token + tail, add_special_tokens=False).input_ids[1:]

    def _adds_bos(self, head: str) -> bool:
        return not (self.tokenizer.bos_token and head.startswith(self.tokenizer.bos_token))


def forward(
    model: Any, ids: Tensor, features: Sequence[Tensor | None] | None = None, positions: Tensor | None = None, **arguments: Any
) -> Any:
    """A model's forward on token ids (rows, length), with image features that were computed before (none once they are cached).

    positions: (axes, rows, length); without them they count from 0, which is right for models of one axis alone.
    """
    if positions is not None:
        arguments["position_ids"] = positions[0] if len(positions) == 1 else positions
    if shown := [feature for feature in features or () if feature is not None]:
        arguments["mm_encoder_outputs"] = {"image": BaseModelOutputWithPooling(pooler_output=shown)}
    return model(input_ids=ids, **arguments)


def read_lineage(folder: Path | str) -> Lineage:
    """A policy folder's lineage. Raises PolicyError if it is no policy folder, or its base is missing."""
    folder = Path(folder)
    file = folder / "lineage.json"
    if not file.is_file():
        raise PolicyError(f"no policy in {folder} ({file.name} is missing); `dvc repro` makes those of this repository")
    raw = json.loads(file.read_text())
    if "adapters" not in raw:
        return Lineage(folder, folder, raw["fingerprint"], [], raw["fingerprint"])
    base = read_lineage(folder.parent / "base")
    if base.fingerprint != raw["base_fingerprint"]:
        raise PolicyError(f"{folder} was trained on another base than {base.folder} holds; run `dvc repro` to train it again")
    return Lineage(
        folder, base.folder, base.fingerprint, [folder / "adapters" / name for name in raw["adapters"]], raw["fingerprint"]
    )


def load_policy(
    folder: Path | str,
    loading: Loading | None = None,
    device: str = "cpu",
    merge_last: bool = True,
) -> Policy:
    """Load a policy: its base, with every adapter merged in order.

    With `merge_last` false the last adapter stays apart and trainable (STIC's stage 2 continues it). Safetensors only, no remote
    code. Merging into 4-bit weights rounds them again. Raises PolicyError for a folder that is no policy, and where a package
    that the model or `loading` needs is missing.
    """
    lineage, loading = read_lineage(folder), loading or Loading()
    raw = json.loads((lineage.base / "lineage.json").read_text())
    source, revision = raw["base"], raw["revision"]
    if revision is None and not Path(source).is_dir():
        raise PolicyError(f"{lineage.base}: its checkpoint {source} is gone; `dvc repro` publishes or pins it again")
    processor = _load_processor(source, revision)
    model = _load_model(
        source,
        revision,
        dtype=getattr(torch, loading.dtype),
        attn_implementation=loading.attention,
        **_four_bit(loading, device),
    )
    for adapter in lineage.adapters:
        from peft import PeftModel  # the base needs none

        trainable = not merge_last and adapter == lineage.adapters[-1]
        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
        if not trainable:
            model = model.merge_and_unload()
    return Policy(model.eval() if loading.four_bit else model.eval().to(device), processor, lineage, loading.pad_images)


def check_checkpoint(folder: str) -> None:
    """Raise PolicyError unless a checkpoint's processor loads, and its weights are those of its config; no weights are held."""
    try:
        processor = _load_processor(folder)
        _load_model(folder, device_map="meta")
    except PolicyError:
        raise
    except Exception as error:  # whatever a loader raises on a file that it cannot read
        raise PolicyError(f"{folder}: not a checkpoint that transformers can load: {' '.join(str(error).split())}") from error
    if not processor.chat_template:
        raise PolicyError(f"{folder}: the processor has no chat template: chat_template.jinja is expected")


def _load_processor(source: str, revision: str | None = None) -> Any:
    try:
        return AutoProcessor.from_pretrained(source, revision=revision)
    except ImportError as error:
        raise PolicyError(
            f"the processor of {source} needs a package that is missing: {' '.join(str(error).split())}"
        ) from error


def _load_model(source: str, revision: str | None = None, **arguments: Any) -> Any:
    """A checkpoint's model. Raises PolicyError unless its weights are exactly those that its config has places for."""
    level = logging.get_verbosity()
    logging.set_verbosity_error()  # its report of what is missing would stand above the one line
    try:
        model, found = AutoModelForImageTextToText.from_pretrained(
            source,
            revision=revision,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are refused below
            output_loading_info=True,
            **arguments,
        )
    finally:
        logging.set_verbosity(level)
    for kind in ("missing", "unexpected", "mismatched"):
        if names := sorted(str(name) for name in found[f"{kind}_keys"]):
            raise PolicyError(
                f"{source}: the weights (*.safetensors) are of another architecture than config.json: {len(names)} {kind}, "
                f"as {names[0]}"
            )
    return model


def _four_bit(loading: Loading, device: str) -> dict[str, Any]:
    """What from_pretrained takes for 4-bit weights (QLoRA's NF4). Raises PolicyError for what cannot work here."""
    if loading.attention == "flash_attention_2" and importlib.util.find_spec("flash_attn") is None:
        raise PolicyError("policy.attention = flash_attention_2 needs the package flash-attn, which is missing: use sdpa")
    if not loading.four_bit:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PolicyError("policy.four_bit needs the package bitsandbytes, which is missing: pip install bitsandbytes")
    if device == "cpu":
        raise PolicyError("policy.four_bit needs a GPU: set it to false on CPUs")
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, loading.dtype),
    )
    return {"quantization_config": config, "device_map": {"": device}}


def add_adapter(policy: Policy, rank: int, alpha: int, dropout: float) -> None:
    """Wrap the policy's model with a fresh, trainable LoRA on the language model's linear layers.

    Raises PolicyError if nothing matches, or if a parameter outside the language model would train.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=lora_targets(policy.model), task_type="CAUSAL_LM"
    )
    policy.model = get_peft_model(policy.model, config)
    check_trainable(policy.model)


def lora_targets(model: Any) -> str:
    """A regex of the language model's linear layers: never the vision tower, the projector or lm_head (all three papers)."""
    decoder = model.get_decoder()
    place = next(name for name, module in model.named_modules() if module is decoder)
    names = {name.rpartition(".")[2] for name, module in decoder.named_modules() if isinstance(module, torch.nn.Linear)}
    return rf"{re.escape(place)}\..*\.({'|'.join(sorted(names))})"


def check_trainable(model: Any) -> None:
    """Raise PolicyError unless exactly the adapters of the language model train."""
    inside = {id(parameter) for parameter in model.get_base_model().get_decoder().parameters()}
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    stray = [name for name, parameter in trainable.items() if "lora_" not in name or id(parameter) not in inside]
    if not trainable or stray:
        raise PolicyError(f"adapters must train on the language model alone; trainable: {stray or 'nothing'}")


def save_adapter(policy: Policy, folder: Path | str, continues: bool, record: dict[str, Any]) -> Lineage:
    """Write a trained adapter as a policy folder of its own, whole or not at all.

    The folder is self-contained: earlier adapters of the chain are copied beside the new one, which takes the last one's place
    if it `continues` it. `record` (method, params, data hashes) goes into lineage.json.
    """
    folder = Path(folder)
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    parents = policy.lineage.adapters[:-1] if continues else policy.lineage.adapters
    names = [parent.name for parent in parents] + [f"{len(parents):02d}-{folder.name}"]
    for parent in parents:
        shutil.copytree(parent, temporary / "adapters" / parent.name)
    policy.model.save_pretrained(temporary / "adapters" / names[-1], safe_serialization=True)
    (temporary / "adapters" / names[-1] / "README.md").unlink(missing_ok=True)
    digest = hashlib.sha256(policy.lineage.base_fingerprint.encode())
    for name in names:
        digest.update(hashlib.sha256((temporary / "adapters" / name / "adapter_model.safetensors").read_bytes()).digest())
    raw = json.loads((policy.lineage.base / "lineage.json").read_text())
    lineage = {
        "base": raw["base"],
        "revision": raw.get("revision"),
        "base_fingerprint": policy.lineage.base_fingerprint,
        "parent": policy.lineage.folder.name,
        "adapters": names,
        "fingerprint": digest.hexdigest(),
        **record,
    }
    with atomic_write(temporary / "lineage.json") as file:
        json.dump(lineage, file, indent=1)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    return read_lineage(folder)


def squared(image: Image.Image, mean: Sequence[float]) -> Image.Image:
    """The image in the middle of a square of its longer side, whose rest has the mean colour (red, green and blue in [0, 1]).

    So LLaVA-1.5 was trained, and STIC, SeVa and CSR after it (`image_aspect_ratio: pad`).
    """
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = Image.new("RGB", (side, side), tuple(int(255 * part) for part in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _accepted(function: Callable[..., Any], encoded: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a processor's outputs that a model's function names among its parameters."""
    names = inspect.signature(function).parameters
    return {key: value for key, value in encoded.items() if key in names}


def _positions(model: Any, encoded: Mapping[str, Any]) -> list[Tensor]:
    """Each prefix's positions (axes, length): the model's own where it has a rule for images (Qwen-VL's mrope), else counted."""
    kept = encoded["attention_mask"].bool()
    rule = getattr(model, "get_rope_index", None)
    positions = rule(**_accepted(rule, encoded))[0] if rule else (kept.cumsum(-1) - 1)[None]
    return [positions[:, row, mask] for row, mask in enumerate(kept)]


def _noised(encoded: Mapping[str, Any], images: Sequence[Image.Image | Noised]) -> Tensor:
    """Normalised pixels with the noise that some images shall have, whatever else is in the batch."""
    pixels = encoded["pixel_values"]  # (images, ...), or (patches of all images, ...) where there is a grid
    grid = encoded.get("image_grid_thw")
    if not any(isinstance(image, Noised) for image in images):
        return pixels
    counts = [1] * len(images) if grid is None else grid.prod(-1).tolist()
    if sum(counts) != len(pixels):
        raise PolicyError("this model's processor gives no pixels by image: diffusion noise cannot be added to them")
    parts = list(pixels.split(counts))
    for row, image in enumerate(images):
        if isinstance(image, Noised):
            noised = diffuse(parts[row], image.step, image.seed)
            if noised.dim() > 4:  # crops that only pad the batch stay empty: models leave them out by that
                noised[(parts[row] == 0).flatten(-3).all(-1)] = 0
            parts[row] = noised
    return torch.cat(parts)
