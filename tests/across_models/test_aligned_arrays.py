"""Activations of several models at the same positions of a text, and joint dictionaries of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

import itda_lightning as il
from itda_lightning.across_models.aligned_arrays import AlignedArrays
from itda_lightning.across_models.compared_models import SameText
from tests.across_models.study import HOOKS

Own = dict[tuple[int, int], torch.Tensor]
SETTINGS: dict[str, Any] = {"tokens": 96 * 16, "context_size": 16, "device": "cpu", "holdout_fraction": 0.3}


@pytest.fixture
def aligned(tiny_model_dir, other_seed_dir, prose_file, tmp_path):
    def of(*models: tuple[Path, Any], **settings: Any) -> AlignedArrays:
        named = {f"model {number}": (path, hooks) for number, (path, hooks) in enumerate(models)}
        return il.aligned_activations(named, prose_file, **SETTINGS | {"cache_dir": str(tmp_path)} | settings)

    return of


def own(path: Path, hook: str, prose: Path, text_of: SameText | None = None) -> tuple[SameText, Own]:
    """Return a model's data, and its activations by document and last character, of the last token that ends there."""
    settings = {name: value for name, value in SETTINGS.items() if name != "tokens"}
    data = SameText(str(path), [hook], str(prose), training_tokens=SETTINGS["tokens"], batch_size=10**6, **settings)
    if text_of is not None:
        data.read_the_text_of(text_of, "train")
    rows = data.rows("train")
    (batch,) = data.train_dataloader()
    places = [(int(row[0]), int(row[5])) for row in batch.table]
    assert len(places) == rows.n_kept
    return data, dict(zip(places, batch.activations[hook], strict=True))


def test_models_of_one_tokenizer_are_joined_token_by_token(aligned, tiny_model_dir, other_seed_dir, prose_file):
    both = aligned((tiny_model_dir, HOOKS[1:]), (other_seed_dir, HOOKS[1]))
    names = [f"model 0 {HOOKS[1]}", f"model 0 {HOOKS[2]}", f"model 1 {HOOKS[1]}"]
    assert list(both.arrays) == names
    assert (both.aligned_by, both.left_out) == ("tokens", 0)
    for name, path in ((names[0], tiny_model_dir), (names[2], other_seed_dir)):
        _, found = own(path, HOOKS[1], prose_file)
        assert len(both.sources) == len(both.documents) == len(found)
        assert torch.equal(both.arrays[name], torch.stack(list(found.values())))
    assert not torch.equal(both.arrays[names[0]], both.arrays[names[2]])


def test_models_of_two_tokenizers_are_joined_where_their_tokens_end(
    aligned, tiny_model_dir, other_tokenizer_dir, prose_file
):
    both = aligned((other_tokenizer_dir, HOOKS[0]), (tiny_model_dir, HOOKS[0]))
    assert both.aligned_by == "characters"
    data, first = own(other_tokenizer_dir, HOOKS[0], prose_file)
    _, second = own(tiny_model_dir, HOOKS[0], prose_file, data)
    places = [place for place in first if place in second]
    assert 0.3 * len(first) < len(places) < len(first)
    for x, found in zip(both.arrays.values(), (first, second), strict=True):
        assert torch.equal(x, torch.stack([found[place] for place in places]))


def test_a_joint_dictionary_of_two_models(aligned, tiny_model_dir, other_tokenizer_dir):
    both = aligned((tiny_model_dir, HOOKS[1]), (other_tokenizer_dir, HOOKS[1]))
    joint = il.fit_activations(both.arrays, sources=both.sources, max_atoms=60, k=12, refine=None, progress=False)
    assert joint.sites.hook_names == list(both.arrays)
    assert joint.sources is not None
    # The text around an atom's token is that of the row whose activations, in both models, the atom is.
    row = joint.sources[0].document
    assert joint.sources.prompts[0].token == both.sources[row]
    for hook, x in both.arrays.items():
        atom = x[row] - joint.bias[joint.sites.columns(hook)] / joint.sites.scale(hook)
        torch.testing.assert_close(
            torch.nn.functional.normalize(joint.parts(hook)[0], dim=0),
            torch.nn.functional.normalize(atom, dim=0),
            rtol=1e-4,
            atol=1e-5,
        )
    # One code explains both models better than their means.
    code = joint.encode(both.arrays)
    for hook, x in both.arrays.items():
        assert (x - joint.decode(code, hook)).square().sum() < 0.5 * (x - x.mean(0)).square().sum()


def test_of_a_short_text_all_is_read(tiny_model_dir, tmp_path, isolated_cache):
    models = {"one": (tiny_model_dir, HOOKS[1:])}
    settings: dict[str, Any] = {"context_size": 16, "device": "cpu", "cache_dir": str(tmp_path / "cache")}
    both = il.aligned_activations(models, [f"The Senate ratified treaty {n} of peace." for n in range(60)], **settings)
    assert 100 < len(both.sources) == len(both.arrays[f"one {HOOKS[1]}"]) < 65_536


def test_what_cannot_be_joined_is_refused(aligned, tiny_model_dir, other_seed_dir):
    with pytest.raises(il.InputError, match=r"of at least two hook points, got .* add a model or a hook point"):
        aligned((tiny_model_dir, HOOKS[1]))
    with pytest.raises(il.InputError, match="activations are read more than once: set cache_dir"):
        aligned((tiny_model_dir, HOOKS[1]), (other_seed_dir, HOOKS[1]), cache_dir=None)
    with pytest.raises(il.InputError, match=r"has no hook point 'blocks\.9"):
        aligned((tiny_model_dir, HOOKS[1]), (other_seed_dir, "blocks.9.hook_resid_post"))
    with pytest.raises(il.InputError, match=r"models are by name \(model, hook points\), got 'base': 'gpt2'"):
        il.aligned_activations({"base": "gpt2"}, "bundled:sotu")
    with pytest.raises(il.InputError, match="tokens must be at least 1, got 0"):
        aligned((tiny_model_dir, HOOKS[1:]), tokens=0)
