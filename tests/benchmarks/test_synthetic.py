"""The study of worlds with known features, in the tiny world."""

import json

import pytest
import torch
from sae_lens.synthetic import orthogonalize_embeddings
from torch.nn.functional import normalize

import itda_lightning as il
from benchmarks.results import Study, describe
from benchmarks.synthetic import run, worlds
from benchmarks.synthetic.atoms import Atoms, dictionary_of
from benchmarks.synthetic.rows import Row, rows_of
from benchmarks.synthetic.scores import score
from benchmarks.synthetic.trained import APART, Training
from itda_lightning.errors import InputError

SAMPLES, HELDOUT = 2048, 8192


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return worlds.World("tiny", 0, tmp_path_factory.mktemp("worlds"))


def test_orthogonalisation_is_that_of_saelens():
    features = torch.randn(300, 16, generator=torch.Generator().manual_seed(0))
    wanted = orthogonalize_embeddings(features, num_steps=100, lr=3e-4, chunk_size=64)
    ours = worlds.orthogonalise(features, 100, 3e-4)
    assert float((wanted - normalize(features, dim=1)).abs().max()) > 1e-2
    torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-5)


def test_samples_are_made_once_and_longer_runs_begin_with_shorter_ones(world, monkeypatch):
    first = world.training(3000)
    again = worlds.World("tiny", 0, world.directory.parent)
    assert torch.equal(again.features, world.features)
    monkeypatch.setattr(again, "_draw", lambda *_: pytest.fail("part 0 is there"))
    assert torch.equal(again.training(worlds.PART)[:3000], first)
    monkeypatch.undo()
    assert torch.equal(again.training(worlds.PART + 5)[:3000], first)
    assert len(list(world.directory.glob("train-*.safetensors"))) == 2
    assert not torch.equal(next(world.activations("heldout", 3000)), first)
    assert not torch.equal(worlds.World("tiny", 1, world.directory.parent).features, world.features)


def test_activations_are_those_of_the_features_that_fired(world):
    fired = torch.cat([part.to_dense() for part in world.fired("train", 10_000)])
    assert fired.shape == (10_000, 256)
    x = world.training(10_000)
    torch.testing.assert_close(x, fired @ world.features + world.model.feature_dict.bias.detach())
    torch.testing.assert_close(world.firing_rates(10_000), (fired > 0).float().mean(0))
    with torch.random.fork_rng():
        torch.manual_seed(worlds.SPLITS.index("train"))
        drawn = world.model.activation_generator.sample(worlds.DRAWN)
    assert torch.equal(fired[: worlds.DRAWN], drawn)


def test_scores_agree_with_their_definitions(world):
    dictionary = dictionary_of(world, Atoms("true features"), SAMPLES, 0)
    scores = score(il.to_sae(dictionary), world, HELDOUT)
    assert scores["mcc"] == pytest.approx(1, abs=1e-5)
    assert scores["uniqueness"] == 1
    x, fired = next(world.activations("heldout", HELDOUT)), next(world.fired("heldout", HELDOUT)).to_dense()
    best = (dictionary.atoms @ world.features.T).argmax(1)
    code = dictionary.encode(x)
    says, is_so = code.to_dense(dictionary.n_atoms) != 0, fired[:, best] > 0
    right = (says & is_so).sum(0).double()
    precision, recall = right / says.sum(0).clamp(min=1), right / is_so.sum(0).clamp(min=1)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=1e-12)
    assert scores["f1"] == pytest.approx(float(f1.mean()), abs=1e-5)
    assert scores["l0"] == pytest.approx(float(code.l0().double().mean()), abs=1e-5)
    error = (x - dictionary.decode(code)).square().sum() / (x - x.mean(0)).square().sum()
    assert scores["ev"] == pytest.approx(1 - float(error), abs=1e-4)


def test_refinement_moves_atoms_as_far_as_its_anchor_and_explains_more(world):
    ev = {}
    for anchor in (1.0, 0.9, None):
        dictionary = dictionary_of(world, Atoms("random", anchor=anchor), SAMPLES, 0)
        ev[anchor] = score(il.to_sae(dictionary), world, HELDOUT)["ev"]
        if anchor == 0.9:
            assert 0.9 <= float(dictionary.cosines.min()) < 0.91
    assert ev[1.0] < ev[0.9] < ev[None]
    assert float(dictionary.cosines.min()) < 0.89
    assert dictionary.metadata["seconds"] > 0


def test_unmixed_atoms_are_less_alike(world):
    alike = {}
    for unmix in (None, 0.25):
        atoms = dictionary_of(world, Atoms("random", anchor=None, unmix=unmix), SAMPLES, 0).atoms
        alike[unmix] = int((atoms @ atoms.T).triu(1).gt(0.5).sum())
    assert alike[0.25] < 0.7 * alike[None]


def test_a_pruned_row_has_the_same_atoms_and_shorter_codes(world):
    made = Atoms("true features")
    plain, pruned, longer = (
        score(row.sae(world, SAMPLES, 0)[0], world, HELDOUT)
        for row in (Row(made), Row(made, least_gain=0.02), Row(made, least_gain=0.02, most=6))
    )
    assert plain["mcc"] == pruned["mcc"] == longer["mcc"]
    assert pruned["l0"] < longer["l0"] < 6
    assert longer["ev"] > pruned["ev"]
    assert 0 < pruned["l0"] < plain["l0"] <= 4
    assert pruned["precision"] > plain["precision"]


def test_an_amortised_row_is_a_stock_sae_with_the_same_atoms(world):
    made = Atoms("true features")
    sae, seconds = Row(made, architecture="topk").sae(world, SAMPLES, 0)
    assert (sae.cfg.architecture(), sae.cfg.k) == ("topk", 3)
    torch.testing.assert_close(sae.W_dec.detach(), dictionary_of(world, made, SAMPLES, 0).atoms)
    assert seconds > dictionary_of(world, made, SAMPLES, 0).metadata["seconds"]


def test_a_decoder_read_by_a_pursuit_is_the_decoder_of_the_sae(world):
    training = Training("topk", passes=4, batch_size=256)
    sae, read = (Row(training, gain, most).sae(world, SAMPLES, 0)[0] for gain, most in ((0.0, None), (0.02, 5)))
    assert (sae.cfg.architecture(), read.cfg.architecture(), read.cfg.k) == ("topk", "itda", 5)
    torch.testing.assert_close(read.W_dec.detach(), normalize(sae.W_dec.detach(), dim=1))
    assert torch.equal(read.b_dec, sae.b_dec)
    assert score(read, world, HELDOUT)["ev"] > score(sae, world, HELDOUT)["ev"]


def test_a_held_decoder_stays_by_its_random_start_and_a_frozen_one_is_it(world):
    directions = {}
    for held in (None, 0.95, 1.0):
        sae, seconds = Row(Training("topk", passes=4, held=held, rate=0.02, batch_size=256)).sae(world, SAMPLES, 0)
        directions[held] = normalize(sae.W_dec.detach(), dim=1)
        assert seconds > 0
    random = normalize(torch.randn(32, 16, generator=torch.Generator().manual_seed(APART)), dim=1)
    assert abs(float((random * world.features[:32]).sum(1).mean())) < 0.15  # it was drawn apart from the truth
    torch.testing.assert_close(directions[1.0], random)
    assert float((directions[0.95] * random).sum(1).min()) == pytest.approx(0.95, abs=1e-3)
    assert float((directions[None] * random).sum(1).min()) < 0.9


def test_the_command_keeps_finished_rows_and_takes_up_where_it_stopped(world, tmp_path, monkeypatch):
    options = {"world": "tiny", "samples": SAMPLES, "heldout": HELDOUT, "results": tmp_path}
    options["cache_dir"] = str(world.directory.parent)
    wanted = ["random activations", "k-means", "TopK, T", "Matryoshka BatchTopK, T", "matching pursuit SAE, T"]
    run.main(rows=wanted, **options)
    rows = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))["rows"]
    begun = {name for name in rows_of(world) if name.startswith(tuple(wanted[1:]))}
    assert len(begun) == 6
    assert {row["row"] for row in rows} == {"random activations"} | begun
    assert all(0 <= row["f1"] <= 1 and 0 < row["ev"] < 1 and row["seconds"] > 0 for row in rows)
    assert next(row["l0"] for row in rows if row["row"] == "k-means, L0 1") == pytest.approx(1, abs=0.05)
    monkeypatch.setattr(run, "score", lambda *_: pytest.fail("all rows are there"))
    run.main(rows=wanted, **options)
    monkeypatch.undo()
    run.main(seed=1, rows=["random activations"], **options)
    text = (tmp_path / "tiny.md").read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| random activations |"))
    assert line.split(" | ")[1:3] == ["2,048", "2"]
    assert "±" in line
    assert "torch" in text.splitlines()[0]


def test_wrong_arguments_are_told(world, tmp_path):
    options = {"world": "tiny", "results": tmp_path, "cache_dir": str(world.directory.parent)}
    with pytest.raises(InputError, match=r"no row begins with \['SVD'\]: give beginnings of random activations"):
        run.main(rows=["SVD"], **options)
    with pytest.raises(InputError, match="heldout must be a multiple of 8,192, got 100"):
        run.main(heldout=100, **options)
    with pytest.raises(InputError, match="world must be"):
        run.main(**options | {"world": "large"})


def test_published_rows_are_quoted_beside_the_published_world_only():
    row = {"row": "TopK, 10 T", "samples": 10, "seed": 42, **dict.fromkeys(run.COLUMNS, 1.0)}
    result = describe(Study("synthetic", dataset="d")) | {"rows": [row]}
    quoted = "| published: Matryoshka (quoted, L0 25) | 200,000,000 |  | 0.879 |  |  | 0.793 | 0.999 | 0.779 |  |  |  |"
    assert quoted in run.as_markdown(result, "16k").splitlines()
    assert "published" not in run.as_markdown(result, "small")
