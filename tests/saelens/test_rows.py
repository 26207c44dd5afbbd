"""Rows of ``W_dec`` that are written to, in any way, and rows that are not unit."""

import gc

import pytest
import torch
from sae_lens import SAE

from itda_lightning.errors import InputError
from itda_lightning.saelens import from_sae, to_sae
from itda_lightning.saelens.stored_rows import checksum, multilinear, stored_rows
from tests.saelens.kinds import each_itda, make_sae


def scale_all(rows):
    rows *= 1.5


def scale_one(rows):
    rows[3].mul_(8.0)


def copy_one(rows):
    rows[3].copy_(rows[4].roll(1) / rows[4].roll(1).norm())


def swap_two(rows):
    rows[[3, 4]] = rows[[4, 3]]


def turn_one(rows):
    rows[3] = -rows[3]


def write_one_entry(rows):
    rows[3, 2] += 0.5


def zero_one(rows):
    rows[3] = 0.0


WRITES = [scale_all, scale_one, copy_one, swap_two, turn_one, write_one_entry, zero_one]


@pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)
@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
def test_codes_are_exact_after_any_write(make_dictionary, activations, write, pursuit):
    dictionary = make_dictionary(pursuit=pursuit)
    sae = to_sae(dictionary)
    sae.encode(activations.repeat(10, 1))  # enough for a Gram
    write(sae.W_dec.data)
    codes = sae.encode(activations)
    fresh = to_sae(dictionary)
    write(fresh.W_dec.data)
    assert torch.equal(codes, fresh.encode(activations))
    norms = sae.W_dec.detach().norm(dim=1)
    sae.W_dec.data /= norms.clamp(min=1e-8)[:, None]
    unit_codes = sae.encode(activations)
    assert torch.equal(codes != 0, unit_codes != 0)
    torch.testing.assert_close(codes * norms, unit_codes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fresh(activations), sae(activations), rtol=1e-4, atol=1e-5)


def test_reconstructions_do_not_depend_on_the_norms_of_rows(make_dictionary, activations):
    dictionary = make_dictionary(pursuit="omp")
    sae = to_sae(dictionary)
    sae.W_dec.data *= torch.logspace(-20, 20, 24)[:, None]
    torch.testing.assert_close(sae(activations), dictionary(activations), rtol=1e-4, atol=1e-4)


@each_itda
def test_folding_norms_divides_the_rows_and_scales_the_codes(make_dictionary, activations, kind, tmp_path):
    sae = make_sae(make_dictionary, kind)
    factors = torch.linspace(0.2, 3.0, len(sae.W_dec))
    if sae.cfg.mirrored:
        factors = torch.cat([factors[:24], factors[:24]])
    sae.W_dec.data *= factors[:, None]
    before, output = sae.encode(activations).detach(), sae(activations).detach()
    sae.save_model(tmp_path)
    norms = sae.fold_and_get_W_dec_norm()
    torch.testing.assert_close(norms, factors)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(len(factors)))
    torch.testing.assert_close(sae.encode(activations), before * norms, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae(activations), output, rtol=1e-4, atol=1e-5)
    folded = SAE.load_from_disk(tmp_path, fold_W_dec_norm=True)
    assert torch.equal(folded.W_dec, sae.W_dec)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_folding_leaves_rows_that_are_unit_in_their_dtype(make_dictionary, dtype):
    sae = to_sae(make_dictionary()).to(dtype=dtype)
    rows = sae.W_dec.detach().clone()
    assert torch.equal(sae.fold_and_get_W_dec_norm(), torch.ones(24, dtype=dtype))
    assert torch.equal(sae.W_dec, rows)


def test_folding_leaves_rows_of_zeros(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    sae.W_dec.data[3:6] = 0.0
    sae.fold_W_dec_norm()
    assert torch.isfinite(sae(activations)).all()
    assert not sae.encode(activations)[:, 3:6].any()


def test_rows_that_are_not_finite_are_refused(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    sae.encode(activations)
    sae.W_dec.data[3, 2] = torch.nan
    for _ in range(2):
        with pytest.raises(InputError, match=r"^row 3 of W_dec has norm nan.*load the dictionary again$"):
            sae.encode(activations)
    sae.W_dec.data[3] = 1.0
    assert torch.isfinite(sae.encode(activations)).all()


def test_a_view_whose_halves_differ_is_refused(make_dictionary, activations):
    sae = to_sae(make_dictionary(pursuit="omp"), signed=False)
    sae.W_dec.data[27] *= 2
    with pytest.raises(InputError, match=r"not \[D; -D\].*row 27 is not the negative of row 3; write to both"):
        sae.encode(activations)
    sae.W_dec.data[3] *= 2
    assert torch.isfinite(sae.encode(activations)).all()


def test_a_dictionary_is_not_made_of_rows_that_are_not_unit(make_dictionary):
    sae = to_sae(make_dictionary())
    sae.W_dec.data[3] *= 2
    with pytest.raises(InputError, match=r"row 3 has norm 2.*or call sae.fold_W_dec_norm\(\) first$"):
        from_sae(sae)
    sae.fold_W_dec_norm()
    assert from_sae(sae).n_atoms == 24


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("form", ["on the CPU", "elsewhere"])
def test_checksums_tell_every_bit_and_every_place(dtype, form):
    def of(rows):
        integers = torch.int16 if dtype in (torch.bfloat16, torch.float16) else torch.int32
        return checksum(rows) if form == "on the CPU" else multilinear(rows.view(integers))

    rows = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
    seen = {of(rows), of(rows[[1, 0, 2, 3, 4]].contiguous()), of(rows.flip(1).contiguous()), of(-rows)}
    bits = rows.clone().view(torch.uint8)
    for place in range(bits.numel()):
        bits.view(-1)[place] ^= 1
        seen.add(of(bits.view(dtype)))
        bits.view(-1)[place] ^= 1
    assert len(seen) == 4 + bits.numel()
    assert of(bits.view(dtype)) == of(rows)


def test_what_was_prepared_goes_with_the_sae(make_dictionary, activations):
    sae = to_sae(make_dictionary())
    sae.encode(activations)
    key = sae._stored.key
    assert stored_rows(key) is sae._stored
    del sae
    gc.collect()
    assert stored_rows(key).key != key
