"""Cards of checkpoints: who published a base, before and after it was prepared."""

import json

from lookagain import cards

CARD = """---
license: cc-by-4.0
model_name: world-0
publisher: small world
---

# world-0
"""
RAW = {"publish": {"world": {"checkpoint": "world-0"}}, "policy": {"checkpoint": "data/published/world/policy"}}


def card(folder, text=CARD):
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(text)


def test_front_matter(tmp_path):
    card(tmp_path / "a")
    assert cards.read_card(tmp_path / "a") == {"license": "cc-by-4.0", "model_name": "world-0", "publisher": "small world"}
    assert cards.read_card(tmp_path) == {}
    for place, text in enumerate(("# No facts\n\n---\n", "", "---\n---\ntext")):
        card(tmp_path / str(place), text)
        assert cards.read_card(tmp_path / str(place)) == {}


def test_the_publisher_is_known_before_any_run(tmp_path):
    assert cards.publisher_of(RAW, tmp_path) is None
    card(tmp_path / "checkpoints/world-0/policy")
    assert cards.publisher_of(RAW, tmp_path) == "small world"
    card(tmp_path / "elsewhere", CARD.replace("small world", "another"))
    assert cards.publisher_of({"publish": {}, "policy": {"checkpoint": "elsewhere"}}, tmp_path) == "another"
    assert cards.publisher_of({"publish": {}, "policy": {"checkpoint": "llava-hf/llava-1.5-7b-hf"}}, tmp_path) is None


def test_the_lineage_of_a_prepared_base_says_so_where_it_is_of_this_checkpoint(tmp_path):
    card(tmp_path / "checkpoints/world-0/policy")
    (tmp_path / "models/base").mkdir(parents=True)
    lineage = {"base": "data/published/world/policy", "publisher": "a publisher"}
    (tmp_path / "models/base/lineage.json").write_text(json.dumps(lineage))
    assert cards.publisher_of(RAW, tmp_path) == "a publisher"
    assert cards.publisher_of({**RAW, "policy": {"checkpoint": "llava-hf/llava-1.5-7b-hf"}}, tmp_path) is None
