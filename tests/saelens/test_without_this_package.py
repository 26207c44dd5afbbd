"""A ``matching_pursuit`` export in a fresh process in which this package cannot be imported."""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from itda_lightning.saelens import save_export

LOAD = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "itda_lightning":
            raise ImportError("blocked: " + name)

sys.meta_path.insert(0, Blocked())
try:
    import itda_lightning
except ImportError as error:
    assert str(error) == "blocked: itda_lightning"
else:
    raise AssertionError("itda_lightning can be imported")

import torch
from safetensors.torch import load_file, save_file
from sae_lens import SAE

for name in sys.argv[1:]:
    sae = SAE.load_from_disk(name)
    assert type(sae).__module__ == "sae_lens.saes.matching_pursuit_sae"
    with torch.no_grad():
        x = load_file("x.safetensors")["x"]
        save_file({"codes": sae.encode(x), "output": sae(x)}, name + ".safetensors")
"""


def test_stock_saelens_gives_the_same_supports_coefficients_and_reconstruction(make_dictionary, activations, tmp_path):
    dictionaries = {str(flag): make_dictionary(n=64, k=12, nonnegative=flag) for flag in (False, True)}
    for name, dictionary in dictionaries.items():
        save_export(dictionary, tmp_path / name, "matching_pursuit")
    save_file({"x": activations}, tmp_path / "x.safetensors")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, *dictionaries], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.fail(done.stderr)
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
