"""What is used of an entry, against its dense codes; and how tokens and directions are put into words."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from transformers import AutoTokenizer

from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.comparison.latents import LatentUsageMeter
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.entries import Entry
from itda_lightning.evaluation.logit_effects import Unembedding, token_texts
from itda_lightning.evaluation.used_latents import used_latents
from itda_lightning.saelens import to_sae

D, N = 6, 9


@pytest.fixture(scope="module")
def entries() -> dict[str, Entry]:
    torch.manual_seed(0)
    dictionary = Dictionary(torch.nn.functional.normalize(torch.randn(N, D), dim=1), torch.randn(D), k=4)
    sae = StandardSAE(StandardSAEConfig(d_in=D, d_sae=N, reshape_activations="hook_z"))
    return {"itda": Entry("itda", to_sae(dictionary), dictionary), "sae": Entry("sae", sae, None)}


def dense(entry: Entry, x: torch.Tensor) -> torch.Tensor:
    if entry.dictionary is not None:
        return entry.dictionary.encode(x).to_dense(N)
    entry.sae.turn_off_forward_pass_hook_z_reshaping()
    code = entry.sae.encode(x).detach()
    entry.sae.turn_on_forward_pass_hook_z_reshaping()
    return code


@pytest.mark.parametrize("kind", ["itda", "sae"])
@pytest.mark.parametrize("block", [1, 50, 10**6])
def test_blocks_hold_what_dense_codes_hold(entries, kind, block):
    entry, x = entries[kind], torch.randn(23, D)
    parts = list(used_latents(entry, x, block))
    code = torch.zeros(23, N, dtype=torch.float64)
    for part in parts:
        assert part.token.diff().min() >= 0
        code[part.token, part.latent] = part.activation
    torch.testing.assert_close(code, dense(entry, x).double(), atol=1e-5, rtol=1e-4)
    assert len(parts) > 1 or block == 10**6
    if kind == "sae":
        assert entry.sae.hook_z_reshaping_mode


def test_no_activations_use_nothing(entries):
    assert list(used_latents(entries["sae"], torch.zeros(0, D))) == []


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.integers(0, 4), st.integers(0, 1000))
def test_counts_do_not_depend_on_batches_and_only_chosen_latents_are_kept(entries, sizes, top, seed):
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    # Whole rows appear several times, so that magnitudes tie.
    x = torch.randn(5, D, generator=generator)[torch.randint(5, (n,), generator=generator)]
    table = torch.zeros(n, 6, dtype=torch.int64)
    table[:, 1], table[:, 2] = torch.arange(n) // 8, torch.arange(n) % 8
    latents = torch.tensor([7, 2, 4])
    for entry in entries.values():
        whole, cut = (LatentUsageMeter(entry, latents, 8, top, 6) for _ in range(2))
        whole.update(x, table)
        for part, rows in zip(x.split(sizes), table.split(sizes), strict=True):
            cut.update(part, rows)
        code = dense(entry, x)
        for one, other in zip(whole.compute(), cut.compute(), strict=True):
            assert (one.latent, one.density, one.histogram) == (other.latent, other.density, other.histogram)
            values = code[:, one.latent].tolist()
            assert one.density == sum(value != 0 for value in values) / n
            assert [value for _, value in one.top] == pytest.approx([value for _, value in other.top], rel=1e-4)
            assert len(one.top) == min(top, sum(value != 0 for value in values))
            for place, value in one.top:
                assert values[place] == pytest.approx(value, rel=1e-4)


def test_of_equal_activations_the_earliest_are_shown(entries):
    x = torch.randn(1, D).expand(12, D)
    table = torch.stack([torch.zeros(12, dtype=torch.int64)] * 2 + [torch.arange(12)] * 4, dim=1)
    meter = LatentUsageMeter(entries["itda"], torch.arange(N), 12, 3, 2)
    meter.update(x, table)
    for use in meter.compute():
        assert [place for place, _ in use.top] in ([], [0, 1, 2])


def test_a_meter_that_saw_nothing_says_so(entries):
    with pytest.raises(InputError, match="no held-out activations to measure on"):
        next(LatentUsageMeter(entries["itda"], torch.arange(N), 8, 2, 4).compute())


class RMSNormWithOffset(torch.nn.Module):
    """Gemma's: the weights are stored as an offset from one."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * (1 + self.weight)


class Tokens:
    """A tokenizer of so many tokens."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size


def language_model(tokens: int, **parts: object) -> LanguageModel:
    loaded = object.__new__(LanguageModel)
    loaded.model, loaded.tokenizer = SimpleNamespace(**parts), Tokens(tokens)
    return loaded


@pytest.mark.parametrize("kind", ["offset", "layer_norm", "identity"])
def test_logits_are_those_of_the_folded_unembedding_whatever_the_norm(kind):
    torch.manual_seed(0)
    weight, unembedding, directions = torch.randn(D).abs(), torch.randn(D, 20), torch.randn(7, D)
    directions[3] = 0
    norm: Any
    if kind == "offset":
        norm, expected = RMSNormWithOffset(weight - 1), directions * weight
    elif kind == "identity":
        norm, expected = torch.nn.Identity(), directions
    else:
        norm = torch.nn.LayerNorm(D)
        norm.weight.data, norm.bias.data = weight, torch.randn(D)
        centred = directions - directions.mean(1, keepdim=True)
        scale = directions.norm(dim=1, keepdim=True) / centred.norm(dim=1, keepdim=True).clamp(min=1e-9)
        expected = centred * weight * scale
    found = Unembedding.of(language_model(17, ln_final=norm, W_U=unembedding), "blocks.3.hook_resid_post")
    assert found is not None
    logits = expected @ unembedding[:, :17]  # the last three columns pad the vocabulary
    torch.testing.assert_close(found.logits(directions), logits, atol=1e-4, rtol=1e-3)
    promoted, suppressed = found.effects(directions, 4)
    living = [row for row in range(7) if row != 3]
    assert promoted[living].tolist() == logits.topk(4).indices[living].tolist()
    assert suppressed[living].tolist() == (-logits).topk(4).indices[living].tolist()
    assert found.effects(directions, 50).shape == (2, 7, 17)


@pytest.mark.parametrize(
    ("hook_name", "inside"),
    [
        ("blocks.14.hook_resid_post", True),
        ("blocks.0.hook_resid_mid", True),
        ("blocks.2.hook_mlp_out", True),
        ("blocks.2.attn.hook_out", True),
        ("blocks.2.hook_out", True),
        ("blocks.2.attn.hook_z", False),
        ("blocks.2.mlp.hook_post", False),
        ("blocks.2.mlp.hook_in", False),
        ("model.layers.2", False),
    ],
)
def test_only_what_is_in_the_residual_stream_has_logit_effects(hook_name, inside):
    norm, unembedding = torch.nn.Identity(), torch.eye(3)
    model = language_model(3, ln_final=norm, W_U=unembedding)
    assert (Unembedding.of(model, hook_name) is not None) == inside
    assert Unembedding.of(language_model(3, ln_final=norm), hook_name) is None
    assert Unembedding.of(language_model(3, W_U=unembedding), hook_name) is None


def test_tokens_are_written_as_text_and_parts_of_characters_as_bytes(tiny_model_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    for text in ("state", " of the", "\n"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert "".join(token_texts(tokenizer, ids)) == text
    ids = tokenizer("—", add_special_tokens=False)["input_ids"]
    assert len(ids) > 1
    assert "".join(token_texts(tokenizer, ids)) == r"\xe2\x80\x94"
    assert token_texts(tokenizer, [tokenizer.bos_token_id]) == ["<s>"]
    named = SimpleNamespace(decode=lambda ids: "\ufffd", convert_ids_to_tokens=lambda token: "▁<0xE2>")
    assert token_texts(named, [5]) == ["▁<0xE2>"]
