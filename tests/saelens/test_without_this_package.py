"""A ``matching_pursuit`` export in a process in which this package cannot be imported."""

import multiprocessing
import sys
import traceback
from pathlib import Path

import pytest
import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

from itda_lightning.saelens import save_export


class Blocked:
    """Finds no module of this package."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.split(".")[0] == "itda_lightning":
            raise ImportError(f"blocked: {name}")


def load_and_save(directory: Path, names: list[str]) -> None:
    """Load with a SAELens that this package never touched: both are forgotten, and SAELens is imported again."""
    try:
        torch.set_num_threads(1)
        for name in [name for name in sys.modules if name.split(".")[0] in ("itda_lightning", "sae_lens")]:
            del sys.modules[name]
        sys.meta_path.insert(0, Blocked())
        with pytest.raises(ImportError, match="blocked: itda_lightning"):
            __import__("itda_lightning")
        stock = __import__("sae_lens").SAE
        assert stock is not SAE
        for name in names:
            sae = stock.load_from_disk(directory / name)
            assert type(sae).__module__ == "sae_lens.saes.matching_pursuit_sae"
            assert isinstance(sae, stock)
            with torch.no_grad():
                x = load_file(directory / "x.safetensors")["x"]
                save_file({"codes": sae.encode(x), "output": sae(x)}, directory / f"{name}.safetensors")
    except BaseException:
        (directory / "failed.txt").write_text(traceback.format_exc())


def test_stock_saelens_gives_the_same_supports_coefficients_and_reconstruction(make_dictionary, activations, tmp_path):
    dictionaries = {str(flag): make_dictionary(n=64, k=12, nonnegative=flag) for flag in (False, True)}
    for name, dictionary in dictionaries.items():
        save_export(dictionary, tmp_path / name, "matching_pursuit")
    save_file({"x": activations}, tmp_path / "x.safetensors")
    process = multiprocessing.get_context("fork").Process(target=load_and_save, args=(tmp_path, list(dictionaries)))
    process.start()
    process.join(120)
    if process.exitcode is None or (tmp_path / "failed.txt").exists():
        process.kill()
        pytest.fail((tmp_path / "failed.txt").read_text() if process.exitcode is not None else "the process hangs")
    for name, dictionary in dictionaries.items():
        stock = load_file(tmp_path / f"{name}.safetensors")
        dense = dictionary.encode(activations).to_dense(64)
        # Positive coefficients on D and the sizes of negative ones on -D; a re-pick of both signs fills both columns.
        codes = stock["codes"] if dictionary.nonnegative else stock["codes"][:, :64] - stock["codes"][:, 64:]
        assert (stock["codes"] >= 0).all()
        assert torch.equal(codes != 0, dense != 0)
        torch.testing.assert_close(codes, dense)
        torch.testing.assert_close(stock["output"], dictionary(activations))
        assert (dense < 0).any() != dictionary.nonnegative
