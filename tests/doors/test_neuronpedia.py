"""The neuronpedia command: what it writes has Neuronpedia's schema and the numbers of the held-out activations."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jsonargparse import auto_cli

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.machine.command_line import run_command
from itda_lightning.neuronpedia import neuronpedia
from tests import by_hand
from tests.evaluation.test_neuronpedia import EXPLANATION, check_batch, check_schema
from tests.runs import CONTEXT, HOOK, LAYER, VALIDATION_ROWS, K
from tests.tiny_model import WIDTH


def batches_in(directory: Path) -> list[dict]:
    paths = sorted(directory.glob("batch-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@pytest.fixture(scope="module")
def written(tiny_run, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("neuronpedia") / "out"
    neuronpedia(str(tiny_run), str(output), device="cpu", atoms_per_batch=25, model_id="tiny", top=3)
    return output


def test_all_atoms_are_written_in_the_format(written, tiny_run, prose_file):
    n = load_dictionary(tiny_run).n_atoms
    batches = batches_in(written)
    assert [len(content["features"]) for content in batches] == [min(25, n - start) for start in range(0, n, 25)]
    assert [made["feature_index"] for content in batches for made in content["features"]] == list(range(n))
    for content in batches:
        check_batch(content)
        assert (content["model_id"], content["layer"], content["sae_set"]) == ("tiny", LAYER, "itda")
        for made in content["features"]:
            assert (made["n_prompts_total"], made["n_tokens_in_prompt"]) == (VALIDATION_ROWS, CONTEXT)
            assert made["dataset"] == prose_file.name  # local paths are not told
            assert len(made["pos_str"]) == len(made["neg_str"]) == 10
    assert {path.name for path in written.iterdir()} == {
        "explanations",
        *(f"batch-{i}.json" for i in range(len(batches))),
    }


def test_numbers_are_those_of_the_held_out_activations(written, tiny_run, tiny_model_dir):
    dictionary = load_dictionary(tiny_run)
    rows = data_for(dictionary, None, HOOK).rows("heldout")
    x = by_hand.activations(tiny_model_dir, LAYER, rows.tokens)
    dense = torch.zeros(*rows.tokens.shape, dictionary.n_atoms)
    dense[rows.kept] = dictionary.encode(x[rows.kept]).to_dense(dictionary.n_atoms)
    texts = ["".join(rows.pieces(row)) for row in range(len(rows))]
    assert len(set(texts)) == len(texts)
    for made in (made for content in batches_in(written) for made in content["features"]):
        code = dense[..., made["feature_index"]]
        assert made["frac_nonzero"] == pytest.approx(float((code[rows.kept] != 0).double().mean()))
        for part in made["activations"]:
            row = texts.index("".join(part["tokens"]))
            assert part["values"] == pytest.approx(code[row].tolist(), rel=1e-3, abs=2e-3)
        if made["activations"]:
            assert made["activations"][0]["bin_max"] == pytest.approx(float(code.abs().max()), rel=1e-3)


def test_activations_may_be_cosines(tiny_run, tiny_model_dir, tmp_path):
    neuronpedia(str(tiny_run), str(tmp_path / "out"), device="cpu", top=3, strength="cosine")
    dictionary = load_dictionary(tiny_run)
    rows = data_for(dictionary, None, HOOK).rows("heldout")
    x = by_hand.activations(tiny_model_dir, LAYER, rows.tokens)[rows.kept]
    cosines = torch.nn.functional.normalize(x - dictionary.bias, dim=1) @ dictionary.atoms.T
    least = cosines.topk(K, dim=1).values[:, -1:].clamp(min=1e-9)
    detected = torch.where(cosines >= least, cosines, 0.0)
    shown = [made for content in batches_in(tmp_path / "out") for made in content["features"]]
    for made, of_atom in zip(shown, detected.T, strict=True):
        assert made["frac_nonzero"] == pytest.approx(float((of_atom > 0).double().mean()), abs=0.004)
        if made["activations"]:
            assert made["activations"][0]["bin_max"] == pytest.approx(float(of_atom.max()), rel=1e-3)


def test_logits_are_those_of_the_model(written, tiny_run, tiny_model_dir):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    with torch.no_grad():
        logits = load_dictionary(tiny_run).atoms @ (model.lm_head.weight * model.model.norm.weight).T
    for made in (made for content in batches_in(written) for made in content["features"]):
        own = logits[made["feature_index"]]
        assert made["pos_values"] == pytest.approx(own.topk(10).values.tolist(), abs=1e-3)
        assert made["neg_values"] == pytest.approx((-(-own).topk(10).values).tolist(), abs=1e-3)
        assert sum(made["logits_hist_data_bar_heights"]) == len(own)


def test_every_atom_is_explained_by_its_source(written, tiny_run):
    dictionary = load_dictionary(tiny_run)
    rows = [
        json.loads(line)
        for path in sorted((written / "explanations").iterdir())
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    assert [row["index"] for row in rows] == [str(atom) for atom in range(dictionary.n_atoms)]
    for row, prompt in zip(rows, dictionary.prompts, strict=True):
        check_schema(row, EXPLANATION)
        assert row["layer"] == f"{LAYER}-itda"
        assert f"[[{prompt.token}]]" in row["description"]


def test_atoms_without_sources_are_written_without_explanations(tiny_run, tmp_path, capsys):
    dictionary = load_dictionary(tiny_run)
    Dictionary(dictionary.atoms[:5], dictionary.bias, k=K).save(tmp_path / "bare")
    options = {"hook_name": HOOK, "data_config": str(tiny_run / "config.yaml"), "device": "cpu"}
    neuronpedia(str(tmp_path / "bare"), str(tmp_path / "out"), layer=9, sae_set="bare", **options)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["batch-0.json"]
    (content,) = batches_in(tmp_path / "out")
    check_batch(content)
    assert (content["layer"], content["sae_set"], len(content["features"])) == (9, "bare", 5)
    assert capsys.readouterr().out.endswith(f"5 atoms of 9-bare for {content['model_id']}\n")


def test_refined_atoms_say_how_near_their_sources_are(tiny_run, tmp_path):
    whole = load_dictionary(tiny_run)
    grown = whole.atoms[:2]
    near = torch.nn.functional.normalize(grown + 0.05 * torch.randn(grown.shape), dim=1)
    sources = replace(whole.sources, table=whole.sources.table[:2], prompts=whole.prompts[:2])
    Dictionary(near, whole.bias, sources, k=K, metadata=whole.metadata, grown=grown).save(tmp_path / "refined")
    refined = load_dictionary(tmp_path / "refined")
    neuronpedia(str(tmp_path / "refined"), str(tmp_path / "out"), device="cpu")
    lines = (tmp_path / "out" / "explanations" / "batch-0.jsonl").read_text(encoding="utf-8").splitlines()
    told = [float(json.loads(line)["description"].split()[2]) for line in lines]
    assert told == pytest.approx(refined.cosines.tolist(), abs=1e-3)
    assert all(value < 1 for value in told)


def test_nothing_is_overwritten_and_a_failure_leaves_nothing(written, tiny_run, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="out exists already"):
        neuronpedia(str(tiny_run), str(written), device="cpu")
    dictionary = load_dictionary(tiny_run)
    atoms = torch.nn.functional.normalize(torch.randn(4, WIDTH + 1), dim=1)
    Dictionary(atoms, k=2, metadata=dictionary.metadata).save(tmp_path / "wide")
    with pytest.raises(InputError, match=f"has d_in {WIDTH + 1} but"):
        neuronpedia(str(tmp_path / "wide"), str(tmp_path / "out"), device="cpu")
    assert [path.name for path in tmp_path.iterdir()] == ["wide"]


def test_what_is_wrong_is_said_before_anything_is_read(tiny_run, tmp_path):
    for option, least in (("atoms_per_batch", 1), ("top", 0), ("per_interval", 0)):
        with pytest.raises(InputError, match=f"--{option} must be at least {least}, got {least - 1}"):
            neuronpedia(str(tiny_run), str(tmp_path / "out"), **{option: least - 1})
    dictionary = load_dictionary(tiny_run)
    dictionary.metadata["hook_name"] = "embeddings"
    dictionary.save(tmp_path / "saved")
    with pytest.raises(InputError, match="the hook point 'embeddings' does not say its layer: give --layer"):
        neuronpedia(str(tmp_path / "saved"), str(tmp_path / "out"))


def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys):
    arguments = ["--dictionary", str(tmp_path / "nowhere"), "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as ended:
        run_command(lambda: auto_cli(neuronpedia, as_positional=False, args=arguments))
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'nowhere'} does not exist: give a run directory")
