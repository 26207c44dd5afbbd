"""The export command, end to end in processes of its own and in this one."""

import re
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import auto_cli
from sae_lens import SAE

from itda_lightning import ActivationsDataModule
from itda_lightning.dictionary.copies import copied
from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.errors import InputError
from itda_lightning.evaluation.data_of import data_for
from itda_lightning.export import export
from itda_lightning.fitting.loading import load_dictionary
from itda_lightning.saelens import amortised
from tests.processes import run_python
from tests.runs import HOOK, K


@pytest.fixture
def saved(tmp_path):
    atoms = torch.nn.functional.normalize(torch.randn(10, 8), dim=1)
    dictionary = Dictionary(atoms, torch.full((8,), 1e6), k=3, metadata={"hook_name": "blocks.0.hook_resid_post"})
    dictionary.save(tmp_path / "saved")
    return tmp_path / "saved"


def run_export(*arguments: str) -> subprocess.CompletedProcess:
    return run_python("-m", "itda_lightning.export", *arguments)


def test_the_printed_line_loads_what_was_written(saved, tmp_path):
    output = tmp_path / "new" / "export"
    done = run_export("--dictionary", str(saved), "--output", str(output))
    assert done.returncode == 0, done.stderr
    wrote, load = done.stdout.splitlines()
    assert wrote == f"wrote {output}: 10 atoms of dimension 8 as a SAELens SAE of architecture itda (float32)"
    line = load.removeprefix("load it with: ")
    assert run_python("-c", f"{line}; print(type(sae).__name__)").stdout == "ITDASAE\n"
    assert torch.equal(load_dictionary(output).atoms, load_dictionary(saved).atoms)


def test_a_view_with_nonnegative_codes_comes_back_as_the_signed_dictionary(saved, tmp_path):
    export(str(saved), str(tmp_path / "view"), nonnegative_view=True)
    sae, x = SAE.load_from_disk(tmp_path / "view"), 1e6 + torch.randn(5, 8)
    codes = load_dictionary(saved).encode(x).to_dense(10)
    assert torch.equal(sae.encode(x), torch.cat([codes.clamp(min=0), (-codes).clamp(min=0)], dim=1))
    loaded = load_dictionary(tmp_path / "view")
    assert torch.equal(loaded.atoms, load_dictionary(saved).atoms)
    assert not loaded.nonnegative


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_local_paths_stay_at_home(tiny_run, tmp_path, architecture):
    own = load_dictionary(tiny_run).metadata
    export(str(tiny_run), str(tmp_path / "export"), architecture)
    written = (tmp_path / "export" / "cfg.json").read_text()
    assert str(Path(own["model_name"]).parent) not in written
    assert str(Path(own["dataset_path"]).parent) not in written
    shared = load_dictionary(tmp_path / "export").metadata
    assert shared["data"]["model"] == shared["model_name"] == Path(own["model_name"]).name
    assert shared["data"] | {"model": 0, "dataset": 0} == own["data"] | {"model": 0, "dataset": 0, "cache_dir": None}


@pytest.mark.parametrize("architecture", ["jumprelu", "topk"])
def test_an_ordinary_sae_imitates_the_codes_of_cached_activations(
    tiny_run, data_section, tmp_path, architecture, capsys, monkeypatch
):
    monkeypatch.setattr(amortised, "STEPS", 200)
    config = tmp_path / "cached.yaml"
    config.write_text(yaml.safe_dump({"data": data_section}))
    export(str(tiny_run), str(tmp_path / "sae"), architecture, data_config=str(config), tokens=1024)
    dictionary, sae = load_dictionary(tiny_run), SAE.load_from_disk(tmp_path / "sae")
    assert f"SAELens SAE of architecture {architecture} (float32)" in capsys.readouterr().out
    assert sae.cfg.architecture() == architecture
    assert torch.equal(sae.W_dec, torch.cat([dictionary.atoms, -dictionary.atoms]))
    x = next(ActivationsDataModule(**data_section).heldout_batches(HOOK)).x
    mean = x.mean(0)
    assert float((sae(x) - x).square().sum() / (x - mean).square().sum()) < 0.55
    assert float((sae.encode(x) > 0).sum(1).double().mean()) == pytest.approx(K, rel=0.1)


def test_what_is_to_be_imitated_must_be_cached(tiny_run, tmp_path):
    with pytest.raises(InputError, match=r"they must be on disk: set data\.cache_dir"):
        export(str(tiny_run), str(tmp_path / "sae"), "jumprelu")
    assert not (tmp_path / "sae").exists()


def test_bad_input_is_one_line_and_exit_code_2(saved, tmp_path):
    done = run_export("--dictionary", str(tmp_path / "nowhere"), "--output", str(tmp_path / "export"))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert "nowhere does not exist" in done.stderr


def test_an_option_that_does_not_parse_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as ended:
        auto_cli(export, as_positional=False, args=["--dictionary", "a", "--output", "b", "--dtype", "int8"])
    assert ended.value.code == 2
    assert "dtype" in capsys.readouterr().err


def test_help_describes_every_argument(capsys):
    with pytest.raises(SystemExit) as ended:
        auto_cli(export, as_positional=False, args=["--help"])
    assert ended.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for phrase in (
        "a run directory, a checkpoint",
        "it must not exist",
        "loads in SAELens alone",
        "where there are several",
    ):
        assert phrase in text
    assert "Half precision rounds the atoms" in text


def test_nothing_is_overwritten(saved, tmp_path):
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "mine").write_text("kept")
    with pytest.raises(InputError, match=r"export exists already: choose another path"):
        export(str(saved), str(tmp_path / "export"))
    assert (tmp_path / "export" / "mine").read_text() == "kept"


def test_architecture_hook_name_and_dtype_are_passed_on(saved, tmp_path, capsys):
    export(str(saved), str(tmp_path / "export"), "matching_pursuit", "blocks.0.hook_resid_post", "bfloat16")
    out = capsys.readouterr().out
    assert "architecture matching_pursuit (bfloat16)" in out
    assert "itda_lightning" not in out.splitlines()[1]
    with pytest.raises(InputError, match=r"not of 'blocks.1'"):
        export(str(saved), str(tmp_path / "other"), hook_name="blocks.1")


def test_a_bias_that_overflows_is_refused_and_leaves_nothing(saved, tmp_path):
    with pytest.raises(InputError, match=r"bias of the dictionary overflows float16: use float32 or bfloat16"):
        export(str(saved), str(tmp_path / "export"), dtype="float16")
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_an_orthogonal_fit_reaches_who_has_saelens_only_and_the_error_is_told(tiny_run, tmp_path, capsys):
    own = load_dictionary(tiny_run)
    omp = copied(own, pursuit="omp", least_gain=0.02)
    omp.save(tmp_path / "omp")
    with pytest.raises(InputError, match=r"'omp' and pruned codes cannot be .* pursuit='mp' \(--pursuit mp\) encodes"):
        export(str(tmp_path / "omp"), str(tmp_path / "refused"), "matching_pursuit")
    export(str(tmp_path / "omp"), str(tmp_path / "plain"), "matching_pursuit", pursuit="mp")
    out = capsys.readouterr().out
    told = re.search(r"by mp: FVU ([\d.]+) with ([\d.]+) atoms by omp, ([\d.]+) \(\+([\d.]+)%\) with ([\d.]+) by", out)
    assert told is not None, out
    x = torch.cat([x for x, _ in data_for(own, None, HOOK).heldout_batches(HOOK)])
    variance = (x - x.mean(0)).double().square().sum()
    for one, (fvu, l0) in zip((omp, own), ((told[1], told[2]), (told[3], told[5])), strict=True):
        assert float(fvu) == pytest.approx(float((x - one(x)).double().square().sum() / variance), abs=1e-3)
        assert float(l0) == pytest.approx(float(one.encode(x).l0().double().mean()), abs=0.06)
    assert float(told[4]) == pytest.approx(100 * (float(told[3]) / float(told[1]) - 1), abs=0.2)
    sae = SAE.load_from_disk(tmp_path / "plain")
    torch.testing.assert_close(sae(x[:50]), own(x[:50]), rtol=1e-3, atol=1e-3)


def test_an_error_that_cannot_be_measured_is_told(saved, tmp_path, capsys):
    export(str(saved), str(tmp_path / "plain"), "matching_pursuit", pursuit="mp")
    assert "by mp: by how much the error grows is not known: nothing says which model" in capsys.readouterr().out


@pytest.mark.parametrize("architecture", ["itda", "matching_pursuit"])
def test_prompts_are_left_out_on_request(tiny_run, tmp_path, architecture):
    token = load_dictionary(tiny_run).sources.prompts[0].before[-20:]
    found = {}
    for prompts in (True, False):
        place = tmp_path / f"{prompts}"
        export(str(tiny_run), str(place), architecture, pursuit="mp", prompts=prompts)
        found[prompts] = any(token.encode() in file.read_bytes() for file in place.iterdir() if file.is_file())
    assert found == {True: True, False: False}
    assert "prompt_hashes" in (tmp_path / "False" / "cfg.json").read_text()
