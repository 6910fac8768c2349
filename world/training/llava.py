"""The base policy: a LLaVA from scratch in minutes, on a frozen tower that already tells what is where.

Three phases, each needed (without the first two, yes/no answers stay at chance):
1. Alignment: the projector puts a patch near the word embeddings of its words (`labels.py`), such as category, cell and colour.
2. Yes/no questions, until their loss falls: attention learns to match a word of the question with a patch. It starts so that it
   nearly can (`start_matching`, `start_copying`). All tokens of the answers are labelled: with "yes" and "no" alone, the loss stays
   at chance for much longer.
3. Everything at once: of each image a conversation, as LLaVA's instruction data have them, and short questions of most kinds.

All that is asked of an image stands in one row behind it, and no conversation sees another (`packed.py`): each takes up the
positions behind the image, where a question stands in use. The image is read once for all of them. As one long conversation that
sees itself, they are learned more slowly, and positions asked by yes or no are not. A share of the rows begins with Vicuna's
system message, so that the base answers with it and without.
Which answers are untrue, and so how imperfect the base is, the conversations decide (`conversations.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import (
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from lookagain.errors import UserError
from lookagain.seeds import derive
from world.scenes.charts import Chart
from world.scenes.scene import Scene
from world.training import tokenizer as words
from world.training.conversations import Turn, yes_no_about
from world.training.labels import SHARES, WORDS, first_weights, patch_words
from world.training.optimise import IGNORED, Report, hidden_matrices, in_bfloat16, minimise
from world.training.packed import Answering
from world.training.tower import start_matching
from world.training.wordings import SYSTEM

WIDTH, LAYERS, HEADS = 128, 3, 4
MATCHING_LAYERS, MATCHING_SCALE = 2, 2.0  # the first layers, whose keys start as their queries
BATCH = 10  # images, each with all that is asked about it; with 16, letters and positions take 1.5 times the images
YES_NO_BATCH = 24  # images of the second phase; with 16, yes/no answers are worse
VERIFICATIONS = 10  # yes/no questions about each of them
LONG = 8  # tokens of a response, with its EOS; those of longer ones weigh LONG_WEIGHT, or descriptions outweigh short answers
LONG_WEIGHT = 0.6
ALIGN_BATCH = 64  # scenes
SYSTEM_SHARE = 0.25  # of rows that begin with the system message
LENGTH_STEP = 32  # tokens: batches are padded to a multiple of it
LEARNING_RATE, ALIGN_LEARNING_RATE = 1.5e-3, 3e-3
HOLD = 0.5  # of the third phase at the peak rate: open questions, learned late, get further than with a cosine from the start
YES_NO_LEARNING_RATE = 1e-3  # at 2e-3 the yes/no loss stays at chance for three times as long, or for good
LOGIT_SCALE = 10.0  # of a projected patch with a word embedding


class TrainingError(UserError):
    """A base that did not learn to look: the message says which phase failed and what to change."""


@dataclass(frozen=True)
class Example:
    """A training row: an image's prefix and the conversations about it, none of which sees another."""

    row: int  # the image's
    prefix: int  # tokens before the conversations
    ids: list[int]
    parts: list[int]  # of tokens; 0: the prefix, else the number of the conversation
    positions: list[int]  # of tokens; each conversation's are those behind the prefix
    before: list[int]  # places of the tokens that a response's token follows
    labels: list[int]  # the responses' tokens
    weights: list[float]  # theirs in the loss


def new_llava(tower: CLIPVisionModel, tokenizer: PreTrainedTokenizerFast) -> LlavaForConditionalGeneration:
    """A LLaVA with this tower and an untrained projector and decoder."""
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=3 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids(words.IMAGE),
        image_seq_length=(tower.config.image_size // tower.config.patch_size) ** 2,
        vision_feature_layer=-1,  # the supervised one; LLaVA-1.5 takes -2 of a CLIP whose last layer serves its class token
        vision_feature_select_strategy="default",
        tie_word_embeddings=True,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.vision_tower.requires_grad_(False)
    layers = model.model.language_model.layers
    start_matching(layers[:MATCHING_LAYERS], MATCHING_SCALE)
    start_copying(layers[0])
    model.generation_config = GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def start_copying(layer: Any) -> None:
    """Let a layer's untrained attention add what it looks at, smaller and about as it is: its output projection turns values back.

    If the second layer does the same, letters are learned sooner, but negation not in time.
    """
    with torch.no_grad():
        layer.self_attn.o_proj.weight.copy_(layer.self_attn.v_proj.weight.T)


def encode(
    tokenizer: PreTrainedTokenizerFast,
    about: Sequence[Sequence[Sequence[Turn]]],
    rows: Sequence[int],
    image_tokens: int,
    seed: int,
) -> list[Example]:
    """The conversations about each image as the chat template writes them, each response ended by EOS; `rows` are the images'."""
    texts = sorted({text for talks in about for turns in talks for turn in turns for text in turn} | {SYSTEM})
    ids = dict(zip(texts, tokenizer(texts, add_special_tokens=False).input_ids, strict=True))
    user, assistant, image = tokenizer.convert_tokens_to_ids([words.USER, words.ASSISTANT, words.IMAGE])
    plain = [tokenizer.bos_token_id, user, *[image] * image_tokens]
    prefixes = plain, [plain[0], *ids[SYSTEM], *plain[1:]]
    with_system = np.random.default_rng(derive(seed, "system message")).random(len(about)) < SYSTEM_SHARE
    examples = []
    for row, talks, system in zip(rows, about, with_system, strict=True):
        prefix = prefixes[int(system)]
        count = len(prefix)
        example = Example(row, count, prefix.copy(), [0] * count, list(range(count)), [], [], [])
        for part, turns in enumerate(talks, 1):
            start = len(example.ids)
            for number, turn in enumerate(turns):
                asked = [*([user] if number else []), *ids[turn.prompt], assistant]
                answered = [*ids[turn.response], tokenizer.eos_token_id]
                weight = LONG_WEIGHT if len(answered) > LONG else 1.0
                example.ids.extend(asked + answered)
                example.before.extend(range(len(example.ids) - len(answered) - 1, len(example.ids) - 1))
                example.labels.extend(answered)
                example.weights.extend([weight] * len(answered))
            added = len(example.ids) - start
            example.parts.extend([part] * added)
            example.positions.extend(range(count, count + added))
        examples.append(example)
    return examples


def align(
    model: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    shown: Sequence[Scene | Chart],
    steps: int,
    seed: int,
    report: Report,
) -> None:
    """Phase 1: train the projector and the word embeddings on (images, 1 + patches, width) tower features."""
    generator = torch.Generator().manual_seed(derive(seed, "align"))
    labels, weights = patch_words(shown), (first_weights(), None, None)
    embeddings = model.get_input_embeddings().weight
    ids = [torch.tensor(tokenizer.convert_tokens_to_ids(list(tokens))) for tokens in WORDS]

    def loss_at(step: int) -> Tensor:
        rows = torch.randint(len(shown), (ALIGN_BATCH,), generator=generator)
        patches = model.model.multi_modal_projector(features[rows, 1:].float()).flatten(0, 1)
        loss = torch.zeros(())
        for tokens, label, weight, share in zip(ids, labels, weights, SHARES, strict=True):
            named = LOGIT_SCALE * patches @ embeddings[tokens].T
            loss = loss + share * functional.cross_entropy(named, label[rows].flatten(), weight=weight, ignore_index=IGNORED)
        return loss

    projector = model.model.multi_modal_projector
    minimise("projector", [*projector.parameters(), embeddings], [], loss_at, steps, ALIGN_LEARNING_RATE, report)


def fit(
    label: str,
    model: LlavaForConditionalGeneration,
    examples: Sequence[Example],
    features: Tensor,
    steps: int,
    seed: int,
    report: Report,
    batch_size: int = BATCH,
    learning_rate: float = LEARNING_RATE,
    hold: float = HOLD,
    enough: float | None = None,
) -> float:
    """Phases 2 and 3: train projector and decoder on the labelled tokens; returns the smoothed loss."""
    batches = _batches(examples, batch_size, np.random.default_rng(derive(seed, label)))
    answering = in_bfloat16(Answering(model))

    def loss_at(step: int) -> Tensor:
        batch = next(batches)
        ids, parts, positions, before, labels, weights = padded(batch)
        logits = answering(ids, features[[example.row for example in batch], 1:], parts, positions, before)
        each = functional.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
        return (each * weights.flatten()).sum() / weights.sum()

    model.train()
    trained = model.parameters(), hidden_matrices(model)
    loss = minimise(label, *trained, loss_at, steps, learning_rate, report, hold, enough=enough)
    model.eval()
    return loss


def train_llava(
    tower: CLIPVisionModel,
    tokenizer: PreTrainedTokenizerFast,
    features: Tensor,
    shown: Sequence[Scene | Chart],
    conversations: Sequence[Sequence[Sequence[Turn]]],
    steps: tuple[int, int, int],
    yes_no_loss: float,
    seed: int,
    report: Report,
) -> LlavaForConditionalGeneration:
    """All phases on scenes and charts, their tower features (images, 1 + patches, width) and the conversations about each.

    `steps` are those of alignment, yes/no questions (at most) and everything. Raises TrainingError if the yes/no loss does not
    fall below `yes_no_loss`.
    """
    align_steps, most_yes_no_steps, mixed_steps = steps
    torch.manual_seed(derive(seed, "decoder"))
    model = new_llava(tower, tokenizer)
    image_tokens = features.shape[1] - 1
    align(model, tokenizer, features, shown, align_steps, seed, report)
    scenes = {row: image for row, image in enumerate(shown) if isinstance(image, Scene)}
    draws = (np.random.default_rng(derive(seed, "yes/no", image.id)) for image in scenes.values())
    asked = [yes_no_about(image, VERIFICATIONS, rng) for image, rng in zip(scenes.values(), draws, strict=True)]
    examples = encode(tokenizer, [[[turn] for turn in turns] for turns in asked], list(scenes), image_tokens, seed)
    settings = YES_NO_BATCH, YES_NO_LEARNING_RATE, 1.0, yes_no_loss  # the learning rate never falls
    loss = fit("yes/no", model, examples, features, most_yes_no_steps, seed, report, *settings)
    if loss >= yes_no_loss:
        raise TrainingError(
            f"the yes/no loss is {loss:.3f} after {most_yes_no_steps} steps, not below policy.yesno_loss = {yes_no_loss}: "
            "the base does not look at the image yet; raise policy.max_yesno_steps, or policy.tower_steps and policy.align_steps"
        )
    examples = encode(tokenizer, conversations, range(len(shown)), image_tokens, seed)
    fit("conversations", model, examples, features, mixed_steps, seed, report)
    return model


def _batches(examples: Sequence[Example], size: int, rng: np.random.Generator) -> Iterator[list[Example]]:
    """Endless shuffled batches of examples with equal prefixes and about the same length, each example once an epoch."""
    while True:
        order = rng.permutation(len(examples))
        batches: list[np.ndarray] = []
        for start in range(0, len(order), 16 * size):
            drawn = order[start : start + 16 * size]
            for prefix in sorted({examples[number].prefix for number in drawn}):
                bucket = [number for number in drawn if examples[number].prefix == prefix]
                bucket.sort(key=lambda number: len(examples[number].ids))
                batches += [np.array(bucket[first : first + size]) for first in range(0, len(bucket), size)]
        for number in rng.permutation(len(batches)):
            yield [examples[index] for index in batches[number]]


def padded(examples: Sequence[Example]) -> list[Tensor]:
    """Ids, parts and positions of rows, (rows, length), and places before labels, labels and their weights, (rows, labels).

    Padded on the right to few lengths, for linear layers are compiled anew for each.
    """
    padding = {"ids": 0, "parts": -1, "positions": 0, "before": 0, "labels": IGNORED, "weights": 0.0}
    tensors = []
    for name, value in padding.items():
        rows = [getattr(example, name) for example in examples]
        length = -(-max(map(len, rows)) // LENGTH_STEP) * LENGTH_STEP
        tensors.append(torch.tensor([[*row, *[value] * (length - len(row))] for row in rows]))
    return tensors
