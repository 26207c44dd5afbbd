"""Steering: what each edit does to activations, on all kinds of models, with and without a cache."""

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM

import itda_lightning as il
from itda_lightning.activations.models.editing import edited
from itda_lightning.evaluation.typical_uses import OF_CODES, TYPICAL, codes_of
from tests.loaded_models import HOOKS, KINDS, loaded
from tests.tiny_model import VOCABULARY, WIDTH

TOKENS = torch.tensor([[0, 70, 81, 92, 103, 114, 125, 136]])


@pytest.fixture(scope="module")
def models(tiny_model_dir):
    return {kind: loaded(kind, tiny_model_dir) for kind in KINDS}


@pytest.fixture(scope="module")
def dictionary():
    atoms = normalize(torch.randn(40, WIDTH, generator=torch.Generator().manual_seed(3)), dim=1)
    metadata = {"hook_name": "blocks.1.hook_resid_post", TYPICAL: [2.0] * 39 + [0.0]}
    made = il.Dictionary(atoms, 0.1 * torch.ones(WIDTH), k=6, pursuit="omp", metadata=metadata)
    made.metadata[OF_CODES] = codes_of(made)
    return made


def stream(model, kind, tokens=TOKENS):
    """Return the activations at the hook point, after whatever edits them, and the logits."""
    seen = []

    def keep(x, first):
        seen.append(x)
        return x

    with torch.no_grad(), edited(model, HOOKS[kind], keep, WIDTH):
        output = model(tokens)
    return seen[-1][0], output.logits if kind == "huggingface" else output


def used_atom(dictionary, x):
    """Return an atom that some codes of activations use, not that of position 0, and its coefficients there."""
    dense = dictionary.encode(x).to_dense(dictionary.n_atoms)
    dense[0] = 0
    atom = int((dense != 0).sum(0).argmax())
    assert 0 < (dense[:, atom] != 0).sum() < len(x)
    return atom, dense[:, atom]


def fail(as_expected):
    assert as_expected
    raise RuntimeError("stop")


def hooks_of(model):
    module_hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    return module_hooks, "forward" in vars(model)


@pytest.mark.parametrize("kind", KINDS)
def test_ablation_takes_out_coefficient_times_atom_at_each_token(kind, models, dictionary):
    model, _ = models[kind]
    x, logits = stream(model, kind)
    atom, coefficient = used_atom(dictionary, x)
    with il.ablate(model, dictionary, atom) as edits:
        changed, other = stream(model, kind)
    assert torch.equal(changed, x - coefficient[:, None] * dictionary.atoms[atom])
    assert not torch.equal(other, logits)
    assert edits.fired == {atom: int((coefficient != 0).sum())}
    assert edits.tokens == len(x) - 1
    assert torch.equal(stream(model, kind)[1], logits)


@pytest.mark.parametrize("kind", KINDS)
def test_strength_0_and_atoms_that_are_in_no_code_change_nothing_bit_for_bit(kind, models, dictionary):
    model, _ = models[kind]
    x, logits = stream(model, kind)
    dense = dictionary.encode(x).to_dense(dictionary.n_atoms)
    unused = int((dense == 0).all(0).nonzero()[0])
    with il.steer(model, dictionary, {3: 0.0, 39: 0.0}):
        assert torch.equal(stream(model, kind)[1], logits)
    said = rf"atom {unused}, no label, is in no code of the {len(x) - 1} tokens read: taking it out changed nothing"
    with pytest.warns(UserWarning, match=said), il.ablate(model, dictionary, [unused]):
        assert torch.equal(stream(model, kind)[1], logits)


@pytest.mark.parametrize("kind", KINDS)
def test_added_clamped_and_swapped_atoms(kind, models, dictionary):
    model, _ = models[kind]
    x, _ = stream(model, kind)
    a, coefficient = used_atom(dictionary, x)
    b, (atom, other) = (a + 1) % 39, dictionary.atoms[[a, (a + 1) % 39]]
    later = (torch.arange(len(x)) > 0)[:, None]
    scale = coefficient[:, None]
    for options, expected in (
        ({"add": {a: -1.5}}, x - 3.0 * atom),
        ({"add": {a: 1.5}, "units": "coefficient"}, x + 1.5 * atom),
        ({"clamp": {a: 2.0}}, x + (4.0 - scale) * atom),
        ({"swap": {a: b}}, x - scale * atom + scale * other),
        ({"add": {a: None}}, x - scale * atom),
    ):
        with il.steer(model, dictionary, **options):
            changed, _ = stream(model, kind)
        torch.testing.assert_close(changed, torch.where(later, expected, x), rtol=1e-4, atol=1e-5)
    with il.steer(model, dictionary, {a: 1.0}, skip_first=False):
        torch.testing.assert_close(stream(model, kind)[0], x + 2.0 * atom)


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_keys_and_values_changes_nothing_and_is_steered(kind, models, dictionary):
    model, _ = models[kind]
    name = "use_cache" if kind == "huggingface" else "use_past_kv_cache"
    options: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False}
    options |= {} if kind == "huggingface" else {"return_type": "tokens", "verbose": False, "stop_at_eos": False}
    plain = model.generate(TOKENS, **options)
    x, _ = stream(model, kind, plain)
    a, _ = used_atom(dictionary, x)
    for steering in ({"add": {a: 4.0}}, {"ablate": [a]}):
        texts, seen = [], []
        for cached in (True, False):
            with il.steer(model, dictionary, **steering) as edits:
                texts.append(model.generate(TOKENS, **options, **{name: cached}))
            seen.append(edits.tokens)
        assert torch.equal(*texts)
        assert seen[0] == plain.shape[1] - 2  # neither the first, nor the last, which nothing reads
        assert seen[1] > seen[0]
        if "add" in steering:
            assert not torch.equal(texts[0], plain)
    assert torch.equal(model.generate(TOKENS, **options), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_gone_after_an_error(kind, models, dictionary):
    model, _ = models[kind]
    before, (_, logits) = hooks_of(model), stream(model, kind)
    with pytest.raises(RuntimeError, match="stop"), il.steer(model, dictionary, {1: 5.0}):
        fail(hooks_of(model) != before)
    assert hooks_of(model) == before
    assert torch.equal(stream(model, kind)[1], logits)
    wide = il.Dictionary(torch.eye(WIDTH + 1), k=1, metadata=dictionary.metadata)
    with (
        pytest.raises(il.InputError, match=rf"d_in {WIDTH + 1} but .* has {WIDTH} dimensions"),
        il.ablate(model, wide, 1),
    ):
        pass
    assert hooks_of(model) == before


def test_a_dictionary_of_one_kind_of_model_steers_the_others(models, dictionary):
    for kind in KINDS:
        x, logits = stream(models[kind][0], kind)
        for hook in ("blocks.1.hook_resid_post", "model.layers.1"):
            with il.steer(models[kind][0], dictionary, {2: 3.0}, hook_name=hook):
                torch.testing.assert_close(stream(models[kind][0], kind)[0][1:], x[1:] + 6.0 * dictionary.atoms[2])
        with il.steer(models[kind][0], dictionary, {2: 3.0}, hook_name="blocks.2.hook_resid_pre"):
            assert not torch.equal(stream(models[kind][0], kind)[1], logits)


def test_the_first_token_of_a_padded_row_is_left_alone(models, dictionary):
    model, _ = models["huggingface"]
    padded = torch.cat([torch.tensor([[1, 1, *TOKENS[0, :6].tolist()]]), TOKENS])
    mask = torch.ones_like(padded)
    mask[0, :2] = 0
    seen = []

    def keep(x, first):
        seen.append(first)
        return x

    with torch.no_grad(), edited(model, "model.layers.1", keep, WIDTH):
        model.generate(padded, attention_mask=mask, max_new_tokens=2, do_sample=False)
    assert seen[0].nonzero().tolist() == [[0, 2], [1, 0]]
    assert not any(first.any() for first in seen[1:])


def test_half_precision_keeps_rows_that_do_not_change(dictionary):
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 64, "num_attention_heads": 4}
    config = LlamaConfig(**sizes, num_hidden_layers=2)
    model = LlamaForCausalLM(config).eval().bfloat16()
    with torch.no_grad(), il.steer(model, dictionary, {2: 3.0}, hook_name="model.layers.0"):
        assert model(TOKENS).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to do: name an atom to add, clamp, ablate or swap"),
        ({"add": {400: 1.0}}, "there is no atom 400"),
        ({"add": {1: 1.0}, "ablate": [1]}, "atom 1 is named twice"),
        ({"add": {1: float("nan")}}, "the strength of atom 1 must be finite, got nan"),
        ({"add": {39: 1.0}}, "atom 39 is used by no held-out activation, .* give strengths as coefficients"),
        ({"add": {1: 1.0}, "units": "cosine"}, "units must be one of"),
        ({"add": {1: 1.0}, "hook_name": "blocks.9.hook_resid_post"}, r"no hook point 'blocks.9.hook_resid_post'"),
        ({"add": {1: 1.0}, "hook_name": "model.layers.7"}, "no hook point 'model.layers.7': did you mean one of"),
    ],
)
def test_what_cannot_be_done_is_one_line(models, dictionary, options, message):
    for kind in KINDS:
        with pytest.raises(il.InputError, match=message), il.steer(models[kind][0], dictionary, **options):
            pass


def test_other_bad_input(dictionary):
    with (
        pytest.raises(il.InputError, match="a model of transformers, got Linear"),
        il.ablate(torch.nn.Linear(2, 2), dictionary, 1),
    ):
        pass
    bare = il.Dictionary(torch.eye(4), k=1)
    with (
        pytest.raises(il.InputError, match=r"typical uses are measured .* or give strengths as coefficients"),
        il.steer(None, bare, {1: 1.0}),
    ):
        pass
    with pytest.raises(il.InputError, match="does not name its hook point: give hook_name"), il.ablate(None, bare, 1):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_before_and_after_side_by_side(kind, models, dictionary):
    model, tokenizer = models[kind]
    shown = il.steered_text(
        model, dictionary, "a <b>treaty</b>", {2: 8.0}, max_new_tokens=8, tokenizer=tokenizer, ablate=[39]
    )
    assert shown.before != shown.after
    assert shown.loss_after != shown.loss_before
    assert shown.kl > 0
    assert "<b>" not in shown._repr_html_()
    assert shown.as_dict()["fired"] == {"39": shown.fired[39]}
    same = il.steered_text(model, dictionary, "a treaty", {2: 0.0}, max_new_tokens=4, tokenizer=tokenizer)
    assert (same.before, same.loss_before, same.kl) == (same.after, same.loss_after, 0.0)
    drawn = [
        il.steered_text(model, dictionary, "a", {2: 0.0}, temperature=2.0, seed=seed, tokenizer=tokenizer).after
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_prompts_that_cannot_be_continued(models, dictionary):
    model, tokenizer = models["huggingface"]
    for prompt, options, message in (
        ("", {}, "the prompt '' has no tokens"),
        ("word " * 200, {}, r"has \d+ tokens and 40 are to follow, but the model reads at most 128"),
        ("a", {"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ("a", {"temperature": -1.0}, r"the temperature must be 0 or more, got -1.0"),
    ):
        with pytest.raises(il.InputError, match=message):
            il.steered_text(model, dictionary, prompt, {1: 1.0}, tokenizer=tokenizer, **options)
