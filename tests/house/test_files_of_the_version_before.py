"""Files written by version 0.1.0 load, and its fits resume (``files_of_0_1_0/generate.py`` wrote them)."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from itda_lightning.activations.datamodule import ActivationsDataModule
from itda_lightning.activations.models.language_model import LanguageModel
from itda_lightning.errors import InputError
from itda_lightning.fit import main
from itda_lightning.fitting.checkpoint_io import SafetensorsCheckpointIO, read_checkpoint
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.results.as_json import from_json
from itda_lightning.results.comparison import Comparison, Row
from itda_lightning.results.difference import Difference
from itda_lightning.results.model_similarity import ModelSimilarity
from tests.house.files_of_0_1_0.generate import DATA, FIT, HOOK

FILES = Path(__file__).parent / "files_of_0_1_0"


@pytest.fixture
def files(tmp_path, monkeypatch) -> Path:
    """Copy the files to the working directory, since their paths are relative; the language model is not loaded."""
    copy = shutil.copytree(FILES, tmp_path / "files")
    monkeypatch.chdir(copy)
    monkeypatch.setattr(LanguageModel, "__init__", lambda *_: pytest.fail("the language model was loaded"))
    return copy


def test_they_are_small():
    assert sum(path.stat().st_size for path in FILES.rglob("*") if path.suffix != ".pyc") < 500_000


def test_dictionaries_of_a_run(files):
    dictionary, saved = load_dictionary("run"), load_file(f"run/dictionaries/{HOOK}/dictionary.safetensors")
    assert (dictionary.n_atoms, dictionary.k, dictionary.pursuit) == (FIT["max_atoms"], FIT["k"], "omp")
    assert torch.equal(dictionary.atoms, saved["atoms"])
    assert torch.equal(dictionary.bias, saved["bias"])
    assert torch.equal(dictionary.source_table, saved["sources"])
    assert dictionary.metadata["hook_name"] == HOOK
    text = json.loads(Path("prose.jsonl").read_text().splitlines()[dictionary.sources[0].document])["text"]
    assert text[dictionary.sources[0].start : dictionary.sources[0].end] == dictionary.prompts[0].token
    refined = load_dictionary("refined")
    assert torch.equal(refined.grown_atoms, load_file(f"refined/dictionaries/{HOOK}/dictionary.safetensors")["grown"])
    assert refined.cosines.min() >= 0.9 - 1e-6
    assert refined.metadata["refinement"]["passes"] == 1


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("run", f"run/dictionaries/{HOOK}"),
        ("interrupted.ckpt", "interrupted.ckpt"),
        ("export_itda", "export_itda/cfg.json"),
        ("export_mp", "export_mp/cfg.json"),
    ],
)
def test_they_have_no_digest_and_load_with_one_line_of_warning(files, caplog, path, named):
    load_dictionary(path)
    assert caplog.messages == [
        f"{named} has no digest (an earlier version or another program wrote it): damage would not show"
    ]


@pytest.mark.parametrize("damage", ["no count", "count", "atoms", "settings", "text"])
def test_a_damaged_checkpoint_without_a_digest_is_one_line(files, damage):
    content = read_checkpoint("interrupted.ckpt")
    if damage == "no count":
        del content["state_dict"]["dictionaries.0._count"]
    elif damage == "count":
        content["state_dict"]["dictionaries.0._count"] += 10**9
    elif damage == "atoms":
        content["state_dict"]["dictionaries.0._atoms"] *= 3
    elif damage == "settings":
        content["itda"] = {"hook_names": [HOOK]}
    else:
        content["state_dict"] = "text"
    SafetensorsCheckpointIO().save_checkpoint(content, "damaged.ckpt")
    with pytest.raises(InputError, match=r"^[^\n]*checkpoint[^\n]*take an earlier one of the same run$"):
        main(["--config", "run/config.yaml", "--ckpt_path", "damaged.ckpt", "--run.directory", "resumed"])
    with pytest.raises(InputError, match=r"damaged.ckpt[^\n]*take an earlier one of the same run$"):
        load_dictionary("damaged.ckpt")


@pytest.mark.parametrize(("path", "steps"), [("interrupted.ckpt", 4), ("run/checkpoints/last.ckpt", 6)])
def test_checkpoints(files, path, steps):
    assert read_checkpoint(path)["global_step"] == steps
    part, whole = load_dictionary(path), load_dictionary("run")
    assert part.n_atoms == 22
    assert torch.equal(part.atoms, whole.atoms[:22])
    assert torch.equal(part.source_table, whole.source_table[:22])


@pytest.mark.parametrize(("run", "export"), [("run", "export_itda"), ("refined", "export_mp")])
def test_exports(files, run, export):
    dictionary, exported = load_dictionary(run), load_dictionary(export)
    assert torch.equal(exported.atoms, dictionary.atoms)
    x = torch.randn(8, dictionary.d_in, generator=torch.Generator().manual_seed(0))
    for mine, theirs in zip(dictionary.encode(x), exported.encode(x), strict=True):
        assert torch.equal(mine, theirs)


def test_a_cache(files):
    data = ActivationsDataModule(**DATA)
    data.prepare_data()
    assert data.harvested_tokens == 0
    dictionary = load_dictionary("run")
    activations = {
        tuple(row): x
        for batch in data.train_dataloader()
        for row, x in zip(batch.table.tolist(), batch.activations[HOOK], strict=True)
    }
    assert len(activations) == data.rows("train").n_kept
    for source, atom in zip(dictionary.sources, dictionary.atoms, strict=True):
        centred = activations[tuple(source)].double() - dictionary.bias
        assert torch.allclose(centred / centred.norm(), atom.double(), atol=1e-6)


# Growth to the same bits; refinement, whose sums are taken in another order than by 0.1.0, to the same numbers.
@pytest.mark.parametrize(
    ("run", "checkpoint", "tolerance"),
    [("run", "interrupted.ckpt", 0.0), ("refined", "refined/checkpoints/refinement.ckpt", 1e-6)],
)
def test_a_fit_resumes_to_the_same_dictionary(files, run, checkpoint, tolerance):
    main(["--config", f"{run}/config.yaml", "--ckpt_path", checkpoint, "--run.directory", "resumed"])
    before, after = (load_file(f"{name}/dictionaries/{HOOK}/dictionary.safetensors") for name in (run, "resumed"))
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=tolerance, msg=name)
    index, again = (
        json.loads(Path(f"{name}/dictionaries/{HOOK}/dictionary.json").read_text()) for name in (run, "resumed")
    )
    assert again["metadata"]["growth"] == index["metadata"]["growth"]
    assert again["prompts"] == index["prompts"]
    metrics, same = (
        json.loads(Path(f"{name}/metrics.json").read_text())["hook_points"][HOOK] for name in (run, "resumed")
    )
    assert same == pytest.approx(metrics, rel=1e-9)


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("comparison/comparison.json", Comparison),
        ("transfer/transfer.json", Comparison),
        ("difference/difference.json", Difference),
        ("similarity/similarity.json", ModelSimilarity),
    ],
)
def test_results(file, kind):
    text = (FILES / file).read_text()
    result, saved = from_json(text, kind), json.loads(text)["results"]
    assert (result.title, result.facts) == (saved["title"], saved["facts"])


def test_rows_of_a_comparison():
    rows = {row.name: row for row in from_json((FILES / "comparison/comparison.json").read_text(), Comparison).rows}
    assert set(rows) == {"run", "random"}
    for path in (FILES / "comparison/rows").iterdir():
        row = from_json(path.read_text(), Row)
        assert rows[row.name] == row
        assert 0 < row.measures["fvu"].value < 1
