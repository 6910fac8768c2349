"""Exports: equal to the model they come from, whole or not at all."""

import json
from pathlib import Path

import architectures
import pytest
import torch
from test_policy import PROMPTS, trained
from transformers import AutoModelForImageTextToText, AutoProcessor

from lookagain import export as exporting
from lookagain.cards import read_card
from lookagain.export import ExportError, export
from lookagain.generation import Decoding, Request, respond
from lookagain.policy import load_policy, read_lineage, save_adapter
from lookagain.records import Metric, write_metrics
from lookagain.schema import Loading


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def model(request, tmp_path_factory):
    """A chain of two adapters with a record."""
    models = tmp_path_factory.mktemp(request.param)
    architectures.build(request.param, models / "base")
    save_adapter(trained(load_policy(models / "base")), models / "one", False, {"method": "test"})
    record = {"method": "dpo", "params": {"dpo.beta": 0.1}, "data": {"data/pairs/x.jsonl": "ab12"}}
    save_adapter(trained(load_policy(models / "one")), models / "two", False, record)
    return models / "two"


def described(folder, images):
    requests = [Request(str(number), str(number), PROMPTS[0]) for number in range(len(images))]
    return respond(load_policy(folder), requests, lambda one: images[int(one.image_id)], Decoding(0.0, 1.0, 12), 0)


@torch.inference_mode()
def by_transformers_alone(folder, images):
    """Greedy descriptions as the libraries' own documentation would have them."""
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    texts = []
    for image in images:
        content = [{"type": "image", "image": image}, {"type": "text", "text": PROMPTS[0]}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        )
        ids = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        texts.append(processor.decode(ids, skip_special_tokens=True).strip())
    return texts


def test_a_loaded_export_describes_as_the_model_does(model, images, tmp_path):
    write_metrics(
        tmp_path / "two.json", {"pope/random/accuracy": Metric(81.25, 0.5, 600), "x/y": Metric(None, reason="no judge")}
    )
    difference = export(model, tmp_path / "out/two", Loading(), False, tmp_path / "two.json")
    assert difference is not None
    assert difference < 1e-4
    (tmp_path / "out/two/lineage.json").write_text(
        json.dumps({"base": str(tmp_path / "out/two"), "revision": None, "fingerprint": "x"})
    )
    assert described(tmp_path / "out/two", images) == described(model, images)
    original = json.loads((model.parent / "base/config.json").read_text())
    exported = json.loads((tmp_path / "out/two/config.json").read_text())
    assert exported["architectures"] == original["architectures"]
    assert by_transformers_alone(tmp_path / "out/two", images) == described(model, images)
    card = (tmp_path / "out/two/README.md").read_text()
    for said in ("adapter 2: `01-two`", "`dpo.beta`: 0.1", "`data/pairs/x.jsonl`: ab12", "| 81.25 | 0.50 | 600 |", "no judge"):
        assert said in card


def test_the_card_names_the_base_and_its_publisher(model, tmp_path):
    lineage = read_lineage(model)
    path = lineage.base / "lineage.json"
    before = path.read_text()
    try:
        for facts, said in (
            ({"model_name": "world-0", "publisher": "small world"}, "Made by LookAgain from world-0 of the small world."),
            ({"base": "a/b", "revision": "c0ffee"}, "Made by LookAgain from a/b at revision `c0ffee`."),
        ):
            path.write_text(json.dumps(json.loads(before) | facts))
            (tmp_path / "README.md").write_text(exporting.card(lineage, {}, None, False))
            assert said in (tmp_path / "README.md").read_text()
            kept = {key: facts.get(key) for key in ("publisher", "base_model")} | {"base_model": facts.get("base")}
            assert {key: read_card(tmp_path).get(key) for key in kept} == kept
    finally:
        path.write_text(before)


def test_adapters_alone_are_copied_as_they_are(model, tmp_path):
    assert export(model, tmp_path / "out", Loading(), True, Path("none.json")) is None
    adapter = (model / "adapters/01-two/adapter_model.safetensors").read_bytes()
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == adapter
    assert (tmp_path / "out/earlier/00-one/adapter_config.json").is_file()
    assert "Not measured" in (tmp_path / "out/README.md").read_text()


def test_what_cannot_be_exported_leaves_nothing(model, tmp_path, monkeypatch):
    with pytest.raises(ExportError, match="exists already"):
        export(model, tmp_path, Loading(), False, Path("none.json"))
    with pytest.raises(ExportError, match="is a base"):
        export(model.parent / "base", tmp_path / "out", Loading(), True, Path("none.json"))
    probabilities = iter([torch.zeros(2, 3), torch.ones(2, 3)])
    monkeypatch.setattr(exporting, "log_probabilities", lambda policy: next(probabilities))
    with pytest.raises(ExportError, match=r"differ by 1 from the adapter's, 0\.001 is allowed"):
        export(model, tmp_path / "out", Loading(), False, Path("none.json"))
    assert not list(tmp_path.iterdir())
