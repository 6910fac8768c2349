"""Evaluate one model on all benchmarks: every question it has not answered yet, then scores, errors and paired tests.

Run:    python -m lookagain.launch evaluate MODEL POLICY [--dar[=false]] [--parent MODEL]
        MODEL names the outputs, POLICY the folder under models/; --dar describes before it responds (STIC section 4);
        --parent is the model that paired tests are made against beside the base (CSR: the iteration before).
        `augment` of a row of evaluate.models shows every image augmented (SeVa Fig. 2); stic.infusion and stic.blind_dar say
        how DaR describes.
Reads:  models/, data/benchmarks/<evaluate.split>/, data/answers/base.jsonl and that of the parent
Writes: data/answers/MODEL.jsonl, reports/metrics/MODEL.json; keeps answers in .answers/ by the policy's fingerprint
"""

import argparse
import dataclasses
import functools
import json
import os
from pathlib import Path

from lookagain import runtime, tracking
from lookagain.evaluation import suite
from lookagain.evaluation.engine import AnswerCache, Engine, Prompt, cache_path, decoding_of
from lookagain.evaluation.questions import BenchmarkImages, read_annotations
from lookagain.evaluation.scoring import Bootstrap, score_answer, score_model
from lookagain.evaluation.shown import ShownImages
from lookagain.generation import Request, option_losses, respond_in_turn
from lookagain.judge import Judge, key_from_environment
from lookagain.params import flatten, load_params
from lookagain.policy import load_policy, read_lineage
from lookagain.records import Answer, read_records, write_metrics, write_records
from lookagain.schema import Params
from lookagain.transforms import Shown

UNSCORED = "scored over all descriptions, not one by one"


def main(model: str, policy: str, *options: str) -> None:
    """Answer and score; the model is loaded only if an answer is missing."""
    parser = argparse.ArgumentParser("evaluate")
    parser.add_argument("--dar", nargs="?", const="true", default="false", choices=["true", "false"])
    parser.add_argument("--parent")
    chosen = parser.parse_args(options)
    params = load_params()
    benchmark = Path("data/benchmarks") / params.evaluate.split
    earlier = {who: f"data/answers/{who}.jsonl" for who in ("base", chosen.parent) if who and model != "base"}
    row = params.evaluate.models.get(model)
    chair, bootstrap = params.evaluate.chair, Bootstrap(params.evaluate.bootstrap, params.seed)
    used = [
        flatten(chair),
        params.evaluate.pope.suffix,
        params.evaluate.benchmarks,
        params.evaluate.prompts,
        dataclasses.asdict(params.policy.loading),
        params.data.max_image_pixels,
        params.seed,
        (params.stic.infusion, params.stic.blind_dar, row),
        options,
    ]
    inputs = [f"models/{policy}", benchmark, *earlier.values()]
    with (
        runtime.stage(f"evaluate@{model}", used, inputs) as run,
        tracking.child(f"evaluate@{model}", flatten(params.evaluate, "evaluate."), enabled=run.is_main) as track,
    ):
        judge = judge_of(params) if run.is_main else None
        images = BenchmarkImages(benchmark, params.data.max_image_pixels)
        annotations = read_annotations(
            benchmark, params.evaluate.pope.suffix, chair.prompt, images, params.evaluate.benchmarks, params.evaluate.prompts
        )
        lineage = read_lineage(f"models/{policy}")
        shown = ShownImages(images, row.augment if row else None, params.seed)

        def image_of(request: Request) -> Shown:
            return shown.load(request.image_id)

        @functools.cache
        def loaded():
            return load_policy(f"models/{policy}", params.policy.loading, run.device)

        rows = params.runtime.batch_size
        engine = Engine(
            respond=lambda batch, decodings: respond_in_turn(loaded(), batch, decodings, image_of, params.seed, rows),
            rank=lambda batch, options: option_losses(loaded(), batch, options, image_of),
            map_batches=run.map_batches,
            image_sha256=shown.sha256,
            cache=AnswerCache(cache_path(runtime.root() / ".answers", lineage.fingerprint, str(params.policy.loading))),
            seed=params.seed,
            batch_size=rows,
            processes=run.world_size,
            write=run.is_main,
        )
        questions = annotations.questions
        prompts = [
            Prompt(images.place(q), q.prompt, decoding_of(q.benchmark, chair.max_new_tokens), suite.options_of(q))
            for q in questions
        ]
        if chosen.dar == "true":
            how = decoding_of("chair", chair.max_new_tokens), "descriptions", params.stic.infusion, params.stic.blind_dar
            prompts = engine.describe(prompts, chair.prompt, *how)
        answers = []
        for question, prompt, answer in zip(questions, prompts, engine.answer(prompts, "answers"), strict=True):
            response = suite.as_response(question, answer)
            score = score_answer(question, response)
            reason = UNSCORED if score is None else None
            place = question.id, question.image_id, question.benchmark, question.split
            answers.append(Answer(*place, lineage.fingerprint, prompt.text, response, score, reason))
        if run.is_main:
            others = {who: read_records(path, Answer) for who, path in earlier.items()}
            scored = annotations, answers, others.get("base"), others.get(chosen.parent), bootstrap
            metrics = score_model(*scored, judge, params.evaluate.judge.runs)
            write_records(f"data/answers/{model}.jsonl", answers)
            write_metrics(f"reports/metrics/{model}.json", metrics)
            if judge:
                print(f"judge: {judge.summary()}")
                track.text("judge.json", json.dumps(judge.summary()))
            print(f"{model}: {engine.computed} answers computed, {engine.cached} from the cache")
            track.metrics({key: metric.value for key, metric in metrics.items() if metric.value is not None}, step=0)
            track.file(f"reports/metrics/{model}.json")


def judge_of(params: Params) -> Judge | None:
    """The judge that params name, with its verdicts kept in .answers/; None if they name none. Raises JudgeError."""
    chosen = params.evaluate.judge
    if not chosen.base_url:
        return None
    cache = runtime.root() / ".answers" / "verdicts.jsonl"
    key = key_from_environment(os.environ)
    return Judge(chosen.base_url, chosen.model, key, concurrency=chosen.concurrency, cache_path=cache)
