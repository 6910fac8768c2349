"""A whole project in a temporary folder with random models: stages run in it as they do in the repository, in seconds."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from ruamel.yaml import YAML

from lookagain.images import write_shards
from lookagain.records import Conversation, Turn, write_records

ROOT = Path(__file__).parents[1]


def build_project(folder: Path, policy_folder: Path, images: int = 12, **changes) -> Path:
    """`changes` are params by dotted keys with `__` for the dot, e.g. csr__images=4."""
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "configs", folder / "configs")
    (folder / "models/base").mkdir(parents=True)
    shutil.copy(policy_folder / "lineage.json", folder / "models/base")
    write_scorer(folder / "models/scorer")
    few = {"sample__images": images, "csr__images": 4, "stic__describe__items": 6, "evaluate__benchmarks": ["mme"]}
    write_params(folder, **{**few, **changes})
    rng = np.random.default_rng(0)
    for name in ("sample", "instruct"):
        rows = [(f"{name}_{number}", _png(rng), None) for number in range(images)]
        write_shards(folder / "data" / name / "images", rows)
    turns = [Turn("Describe the following image.", "there is a dog."), Turn("is there a cat?", "no.")]
    conversations = [Conversation(f"c{number}", f"instruct_{number}", turns) for number in range(images)]
    write_records(folder / "data/instruct/conversations.jsonl", conversations)
    write_benchmarks(folder / "data/benchmarks/test", rng)
    return folder


def write_benchmarks(folder: Path, rng: np.random.Generator, images: int = 6) -> None:
    """CHAIR's and POPE's files about a few images of dogs, and MME's about others."""
    write_shards(folder / "images", [(str(number), _png(rng), None) for number in range(images)])
    shown = [{"id": number, "file_name": f"{number}.png"} for number in range(images)]
    dogs = [{"image_id": number, "category_id": 1} for number in range(images)]
    instances = {"images": shown, "categories": [{"id": 1, "name": "dog"}], "annotations": dogs}
    (folder / "instances.json").write_text(json.dumps(instances))
    captions = [{"image_id": number, "caption": "A dog."} for number in range(images)]
    (folder / "captions.json").write_text(json.dumps({"annotations": captions}))
    asked = [
        {"question_id": n, "image": f"{n}.png", "text": "Is there a dog in the image?", "label": "yes"} for n in range(images)
    ]
    for split in ("random", "popular", "adversarial"):
        (folder / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, asked)))
    (folder / "mme/existence").mkdir(parents=True)
    for number in range(images):
        (folder / f"mme/existence/{number}.txt").write_text("Is there a dog?\tYes\nIs there a cat?\tNo\n")
    write_shards(folder / "mme/images", [(f"existence/{number}", _png(rng), None) for number in range(images)])


def write_params(folder: Path, **changes) -> None:
    """params.yaml with small numbers and the given changes."""
    yaml = YAML()
    params = yaml.load((ROOT / "presets/smoke.yaml").read_text())
    small = {
        "seva__pairs__items": 12, "seva__pairs__max_new_tokens": 12, "seva__dpo__batch_size": 4,
        "seva__pairs__description_share": 0.0,
        "runtime__batch_size": 8, "stic__pairs__max_new_tokens": 12, "stic__describe__max_new_tokens": 12,
        "csr__search__max_sentence_tokens": 6, "csr__search__max_sentences": 3, "stic__dpo__batch_size": 4,
        "csr__dpo__batch_size": 4, "stic__sft__batch_size": 4, "evaluate__chair__max_new_tokens": 12,
    }  # fmt: skip
    for key, value in {**small, **changes}.items():
        *sections, last = key.split("__")
        place = params
        for section in sections:
            place = place[section]
        place[last] = value
    with (folder / "params.yaml").open("w") as file:
        yaml.dump(params, file)


def write_scorer(folder: Path) -> None:
    """A folder in open_clip's format with random weights and open_clip's own tokenizer, and with its own scorer.json."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {"size": [16, 16]}}))
    (folder / "scorer.json").write_text(json.dumps({"model": str(folder), "pretrained": None}))


# Processes that have imported the slow libraries, and are as fresh as new ones.
FRESH = multiprocessing.get_context("forkserver")
FRESH.set_forkserver_preload(["lookagain.training.dpo", "lookagain.search"])


def run_stage(
    folder: Path, *arguments: str, config: str = "configs/accelerate/cpu.yaml", check: bool = True
) -> subprocess.CompletedProcess:
    """`python -m lookagain.launch ...` in the project, in the processes of an Accelerate config on CPUs."""
    count = YAML(typ="safe").load(ROOT / config)["num_processes"]
    with tempfile.TemporaryDirectory() as said:
        running = [FRESH.Process(target=_stage, args=(folder, arguments, rank, said)) for rank in ranks(count)]
        for process in running:
            process.start()
        for process in running:
            process.join()
        code = next((process.exitcode for process in running if process.exitcode), 0)
        done = subprocess.CompletedProcess(arguments, code, *((Path(said) / name).read_text() for name in ("out", "err")))
    if check and done.returncode:
        raise AssertionError(f"{' '.join(arguments)} exited {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def ranks(count: int) -> list[dict[str, str]]:
    """The environment of each of several connected processes; of one, which needs no connection, nothing."""
    if count == 1:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        shared = {"WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": probe.getsockname()[1]}
    return [{key: str(value) for key, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items()} for rank in range(count)]


def _stage(folder: Path, arguments: tuple[str, ...], rank: dict[str, str], said: str) -> None:
    import torch

    from lookagain import launch

    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(Path(said) / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.chdir(folder)
    os.environ.pop("DVC_ROOT", None)
    os.environ.update({"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **rank})
    torch.set_num_threads(1)
    sys.exit(launch.main(list(arguments)))


def run(folder: Path, *command: str) -> str:
    """A command's output; its exit code must be 0."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "ACCELERATE_", "GIT_"))}
    kept |= {"HOME": str(folder.parent)}  # the remote lies there
    kept |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "DVC_NO_ANALYTICS": "1"}
    for who in ("AUTHOR", "COMMITTER"):
        kept |= {f"GIT_{who}_NAME": "test", f"GIT_{who}_EMAIL": "test@example.org"}
    done = subprocess.run(
        command, cwd=folder, env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout


def stages_run(output: str) -> set[str]:
    """The stages that a command of DVC ran, without what foreach adds to their folder."""
    return set(re.findall(r"Running stage '(?:[^':]*:)?([^':]+)'", output))


def copy_repository(folder: Path) -> None:
    """A git repository of its own with this working tree, nothing run in it and nothing committed."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name not in ("dvc.lock", "pipelines/csr/dvc.lock") and not name.startswith("reports/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    run(folder, "git", "init", "--quiet", "--initial-branch=main")


def _png(rng: np.random.Generator) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (24, 28, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
