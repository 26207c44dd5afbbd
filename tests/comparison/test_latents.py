"""Atoms beside the nearest latents of other entries, against dense codes and products over everything at once."""

import math

import pytest
import torch
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from transformers import AutoModelForCausalLM

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.activations.models.model_name import LanguageModelName
from itda_lightning.comparison.latents import latent_view
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Source
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.evaluation.entries import Entry, load_entry
from itda_lightning.results.comparison import LatentSummary, LatentView
from itda_lightning.saelens import to_sae
from itda_lightning.saelens.anatomy import decoder_rows
from tests import by_hand
from tests.runs import CONTEXT, HOOK, LAYER
from tests.tiny_model import WIDTH

DEAD, ZERO = 5, 7


@pytest.fixture(scope="module")
def itda(tiny_run) -> Entry:
    return load_entry(str(tiny_run))._replace(name="itda")


@pytest.fixture(scope="module")
def standard() -> Entry:
    """A ReLU SAE with a latent that never fires and one whose decoder row is zero."""
    torch.manual_seed(0)
    sae = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=50))
    with torch.no_grad():
        sae.W_dec[ZERO] = 0
        sae.b_enc[DEAD] = -1e9
    return Entry("standard", sae, None)


@pytest.fixture(scope="module")
def topk() -> Entry:
    torch.manual_seed(1)
    return Entry("topk", TopKSAE(TopKSAEConfig(d_in=WIDTH, d_sae=70, k=6)), None)


@pytest.fixture(scope="module")
def data(itda) -> ActivationsDataModule:
    return data_for(itda.dictionary, None, HOOK, "cpu")


@pytest.fixture(scope="module")
def view(itda, standard, topk, data) -> LatentView:
    return latent_view(itda, [topk, standard], data, HOOK, data.language_model, top=4, bins=8, effects=5)


@pytest.fixture(scope="module")
def x(data, tiny_model_dir) -> torch.Tensor:
    rows = data.rows("heldout")
    return by_hand.activations(tiny_model_dir, LAYER, rows.tokens)[rows.kept]


@pytest.fixture(scope="module")
def codes(itda, standard, topk, x) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return {
            "itda": itda.dictionary.encode(x).to_dense(itda.dictionary.n_atoms),
            "standard": standard.sae.encode(x),
            "topk": topk.sae.encode(x),
        }


def directions(entry: Entry) -> torch.Tensor:
    return entry.dictionary.atoms if entry.dictionary is not None else decoder_rows(entry.sae)


def check_use(summary: LatentSummary, code: torch.Tensor, places: list[int]) -> None:
    values = code[:, summary.latent].double()
    used = values[values != 0]
    assert summary.density == pytest.approx(len(used) / len(values))
    if not len(used):
        assert (summary.limit, sum(summary.histogram), summary.top) == (0.0, 0, ())
        return
    assert summary.limit == 2 ** (math.floor(math.log2(float(used.abs().max()))) + 1)
    edges = torch.linspace(-summary.limit, summary.limit, len(summary.histogram) + 1, dtype=torch.float64)
    assert list(summary.histogram) == torch.histogram(used, edges).hist.int().tolist()
    order = values.abs().argsort(descending=True, stable=True)[: min(4, len(used))]
    assert [value for _, value in summary.top] == pytest.approx(values[order].tolist(), rel=1e-3, abs=1e-5)
    for place, value in summary.top:
        assert float(values[places.index(place)]) == pytest.approx(value, rel=1e-3, abs=1e-5)


def test_what_latents_are_used_for_is_what_dense_codes_say(view, codes, data):
    places = data.rows("heldout").kept.flatten().nonzero()[:, 0].tolist()
    assert [summary.latent for summary in view.atoms] == list(range(codes["itda"].shape[1]))
    for summary in view.atoms:
        check_use(summary, codes["itda"], places)
    assert [other.name for other in view.others] == ["topk", "standard"]
    for other in view.others:
        for summary in other.latents:
            check_use(summary, codes[other.name], places)


def test_the_nearest_latent_has_the_largest_cosine_of_either_sign(view, itda, topk, standard):
    for other, entry in zip(view.others, (topk, standard), strict=True):
        cosines = torch.nn.functional.cosine_similarity(
            directions(itda)[:, None].double(), directions(entry)[None].double(), dim=2
        )
        assert [index for index, _ in other.nearest] == cosines.abs().argmax(1).tolist()
        best = cosines.gather(1, cosines.abs().argmax(1)[:, None])[:, 0]
        assert [cosine for _, cosine in other.nearest] == pytest.approx(best.tolist(), abs=1e-5)
        assert best.min() < 0 < best.max()
        assert [latent.latent for latent in other.latents] == sorted({index for index, _ in other.nearest})


def test_refined_atoms_come_with_their_cosine_to_the_source(itda, data):
    assert latent_view(itda, [], data, HOOK, None, max_atoms=5, effects=1).source_cosines is None
    atoms = itda.dictionary.atoms
    near = torch.nn.functional.normalize(atoms + 0.05 * torch.randn(atoms.shape), dim=1)
    refined = Dictionary(near, itda.dictionary.bias, k=itda.dictionary.k, grown=atoms)
    shown = latent_view(itda._replace(dictionary=refined), [], data, HOOK, None, max_atoms=5, effects=1)
    cosines = [float(near[summary.latent] @ atoms[summary.latent]) for summary in shown.atoms]
    assert shown.source_cosines == pytest.approx(cosines, abs=1e-5)
    assert max(cosines) < 1


def test_nonnegative_codes_have_a_nearest_latent_on_the_same_side(itda, topk, data):
    one = Dictionary(itda.dictionary.atoms, itda.dictionary.bias, k=2, nonnegative=True)
    shown = latent_view(Entry("one", to_sae(one), one), [topk], data, HOOK, None)
    cosines = torch.nn.functional.normalize(one.atoms, dim=1) @ torch.nn.functional.normalize(directions(topk), dim=1).T
    assert [index for index, _ in shown.others[0].nearest] == cosines.argmax(1).tolist()


def test_the_texts_of_the_rows_are_exact_and_examples_are_of_tokens_that_count(view, data):
    rows = data.rows("heldout")
    assert [len(row) for row in view.rows] == [CONTEXT] * len(rows)
    for index, row in enumerate(view.rows):
        place = rows.kept[index].nonzero()[0, 0]
        prompt = rows.prompt(Source(*rows.source_table(torch.tensor([index]), place[None])[0].tolist()))
        assert "".join(row) == prompt.before + prompt.token + prompt.after
    kept = rows.kept.flatten()
    assert all(kept[place] for summary in view.atoms for place, _ in summary.top)


def test_logit_effects_are_those_of_the_folded_unembedding(view, itda, standard, data, tiny_model_dir):
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        unembedding = model.lm_head.weight * model.model.norm.weight
        of_others = {s.latent: s for s in view.others[1].latents}
        for entry, summaries in ((itda, dict(enumerate(view.atoms))), (standard, of_others)):
            logits = directions(entry) @ unembedding.T
            for latent, summary in summaries.items():
                for shown, order in ((summary.promoted, logits[latent]), (summary.suppressed, -logits[latent])):
                    expected = [data.tokenizer.decode([token]) for token in order.topk(5).indices.tolist()]
                    texts = [view.vocabulary[index] for index in shown]
                    assert [t for t in texts if "\\x" not in t] == [t for t in expected if "\ufffd" not in t]


def test_batches_of_any_size_give_the_same_view(itda, standard, topk, data):
    settings = dict(data.hparams) | {"validation_tokens": 4 * CONTEXT}

    def view_of(size: int) -> LatentView:
        cut = ActivationsDataModule(**{**settings, "batch_size": size})
        return latent_view(itda, [topk, standard], cut, HOOK, None, top=4, bins=8)

    view = view_of(1000)
    for size in (1, 37):
        again = view_of(size)
        for one, other in zip((view.atoms, *(o.latents for o in view.others)), _all(again), strict=True):
            assert [(s.latent, s.density, s.limit, s.histogram) for s in one] == [
                (s.latent, s.density, s.limit, s.histogram) for s in other
            ]
            assert [[place for place, _ in s.top] for s in one] == [[place for place, _ in s.top] for s in other]


def _all(view: LatentView) -> tuple[tuple[LatentSummary, ...], ...]:
    return (view.atoms, *(other.latents for other in view.others))


def test_without_a_model_there_are_no_logit_effects(itda, data):
    shown = latent_view(itda, [], data, HOOK, None)
    assert shown.vocabulary == ()
    assert shown.others == ()
    assert {(summary.promoted, summary.suppressed) for summary in shown.atoms} == {((), ())}


def test_a_model_without_common_names_gives_no_logit_effects(itda, data, tiny_model_dir):
    name = LanguageModelName(str(tiny_model_dir), loader="huggingface", device="cpu")
    shown = latent_view(itda, [], data, HOOK, LanguageModel(name, [f"model.layers.{LAYER}"]), max_atoms=3)
    assert shown.vocabulary == ()


def test_at_most_so_many_atoms_are_shown_from_the_first_to_near_the_last(itda, data):
    n = itda.dictionary.n_atoms
    shown = latent_view(itda, [], data, HOOK, None, max_atoms=7)
    chosen = [summary.latent for summary in shown.atoms]
    assert len(set(chosen)) == 7
    assert chosen == sorted(chosen)
    assert chosen[0] == 0
    assert chosen[-1] >= n - n // 7 - 1
    assert shown.sources == tuple(itda.dictionary.prompts[atom] for atom in chosen)


def test_atoms_of_other_itdas_are_latents(itda, data):
    bare = Dictionary(itda.dictionary.atoms[:20], itda.dictionary.bias, k=3)
    shown = latent_view(Entry("bare", to_sae(bare, "matching_pursuit"), bare), [itda], data, HOOK, None)
    assert (shown.reference, len(shown.atoms), set(shown.sources)) == ("bare", 20, {None})
    assert [index for index, _ in shown.others[0].nearest] == list(range(20))
    assert [cosine for _, cosine in shown.others[0].nearest] == pytest.approx([1.0] * 20)


def test_what_cannot_be_shown_is_refused_before_anything_is_encoded(itda, topk, data, monkeypatch):
    monkeypatch.setattr(data, "val_dataloader", lambda: pytest.fail("read"))
    with pytest.raises(InputError, match="beside the atoms of an ITDA, but topk is none"):
        latent_view(topk, [], data, HOOK, None)
    broken = StandardSAE(StandardSAEConfig(d_in=WIDTH, d_sae=8))
    with torch.no_grad():
        broken.W_dec[3, 1] = torch.nan
    with pytest.raises(InputError, match="broken has decoder rows that are not finite"):
        latent_view(itda, [Entry("broken", broken, None)], data, HOOK, None)
    for options in ({"max_atoms": 0}, {"effects": 0}, {"bins": 7}, {"bins": 0}, {"top": -1}):
        with pytest.raises(InputError, match=next(iter(options.values())).__str__()):
            latent_view(itda, [], data, HOOK, None, **options)


def test_atoms_of_another_width_than_the_activations_are_refused(data):
    atoms = torch.nn.functional.normalize(torch.randn(4, WIDTH + 1), dim=1)
    wide = Dictionary(atoms, k=2)
    with pytest.raises(InputError, match=f"has d_in {WIDTH + 1} but {HOOK} of .* has {WIDTH} dimensions"):
        latent_view(Entry("wide", to_sae(wide), wide), [], data, HOOK, None)
