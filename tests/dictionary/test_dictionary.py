"""The dictionary's state: append, capacity, Gram, precision, state_dict, encode and decode."""

import copy
import pickle
from inspect import unwrap

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Source, Sources
from itda_lightning.errors import InputError
from itda_lightning.pursuit import (
    generalised_orthogonal_matching_pursuit,
    matching_pursuit,
    orthogonal_matching_pursuit,
)


def gram_of(dictionary: Dictionary) -> Tensor:
    """(n, n) the Gram that the dictionary keeps, built if it is not there yet."""
    prepared = dictionary.prepared()
    prepared.build_gram()
    return prepared.gram[: prepared.n, : prepared.n]


def unit_rows(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(rows, dim=1).to(dtype)


def table_of(n: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + n)[:, None] * 10 + torch.arange(6)


def sources_of(n: int) -> Sources:
    return Sources(table_of(n), "data", tuple(Prompt(f"before {i} ", f"token{i}", " after") for i in range(n)))


def activations(batch: int, d: int, seed: int = 100, dtype: torch.dtype = torch.float32) -> Tensor:
    return (3 * torch.randn(batch, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).to(dtype)


def test_atoms_that_were_written_to_are_used_as_they_are_now_or_refused() -> None:
    dictionary, x = Dictionary(unit_rows(60, 32), k=6), activations(40, 32)
    dictionary.encode(x)
    dictionary.atoms[[3, 4]] = dictionary.atoms[[4, 3]]
    assert torch.equal(dictionary.encode(x).support, Dictionary(dictionary.atoms.clone(), k=6).encode(x).support)
    dictionary.atoms[3] *= 1.5
    with pytest.raises(ValueError, match=r"atoms must be unit rows: row 3 has norm 1.5; divide"):
        dictionary.encode(x)


def test_a_dictionary_holds_what_it_was_given():
    atoms, bias, metadata = unit_rows(5, 4), torch.arange(4.0), {"hook_name": "x"}
    dictionary = Dictionary(atoms, bias, sources_of(5), k=3, pursuit="omp", nonnegative=True, metadata=metadata)
    assert torch.equal(dictionary.atoms, atoms)
    assert torch.equal(dictionary.bias, bias)
    assert (dictionary.n_atoms, dictionary.capacity, dictionary.d_in) == (5, 5, 4)
    assert (dictionary.k, dictionary.pursuit, dictionary.nonnegative, dictionary.metadata) == (3, "omp", True, metadata)
    assert list(dictionary.sources) == list(sources_of(5))
    assert dictionary.sources.prompts == sources_of(5).prompts
    assert not list(dictionary.parameters())


def test_what_it_was_given_is_copied():
    atoms, bias, sources = unit_rows(2, 3), torch.zeros(3), sources_of(2)
    metadata: dict[str, object] = {}
    dictionary = Dictionary(atoms, bias, sources, k=1, metadata=metadata)
    before = dictionary.atoms.clone()
    atoms.zero_(), bias.fill_(9), sources.table.zero_(), metadata.update(x=1)
    assert torch.equal(dictionary.atoms, before)
    assert torch.equal(dictionary.bias, torch.zeros(3))
    assert torch.equal(dictionary.sources.table, table_of(2))
    assert dictionary.metadata == {}


def test_without_bias_or_sources():
    dictionary = Dictionary(unit_rows(2, 3), k=1)
    assert torch.equal(dictionary.bias, torch.zeros(3))
    assert dictionary.sources is None
    assert dictionary.source_table.tolist() == [[-1] * 6] * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"^k must be at least 1, got 0"),
        ({"atoms": torch.ones(2, 3)}, r"^atoms must be unit rows: row 0 has norm 1\.73205; divide by"),
        ({"pursuit": "lasso"}, r"^pursuit must be one of \('mp', 'omp', 'gomp'\), got 'lasso'$"),
        ({"bias": torch.zeros(4)}, r"^the bias must have shape \(3,\) like an atom, got \(4,\)$"),
        ({"sources": sources_of(3)}, r"^3 sources for 2 atoms: give one source per atom$"),
        ({"capacity": 1}, r"^a capacity of 1 cannot hold 2 atoms$"),
    ],
)
def test_what_makes_no_dictionary(options, message):
    valid = {"atoms": unit_rows(2, 3), "bias": None, "sources": None, "k": 1}
    dictionary = Dictionary.__new__(Dictionary)
    with pytest.raises(ValueError, match=message):
        unwrap(Dictionary.__init__)(dictionary, **(valid | options))


def test_append_fills_the_capacity_and_no_more():
    atoms, table = unit_rows(7, 4), table_of(7)
    dictionary = Dictionary(atoms[:2], sources=Sources(table[:2], "data"), k=2, capacity=7)
    for start, stop in ((2, 3), (3, 3), (3, 7)):
        dictionary.append(atoms[start:stop], table[start:stop])
        assert dictionary.n_atoms == stop
        assert dictionary.capacity == 7
        assert torch.equal(dictionary.atoms, atoms[:stop])
        assert torch.equal(dictionary.sources.table, table[:stop])
    with pytest.raises(InputError, match=r"^8 atoms do not fit a capacity of 7$"):
        dictionary.append(atoms[:1], table[:1])
    assert dictionary.n_atoms == 7
    assert torch.equal(dictionary.atoms, atoms)


def test_prompts_of_the_old_atoms_are_forgotten_when_atoms_are_appended():
    dictionary = Dictionary(unit_rows(2, 4), sources=sources_of(2), k=2, capacity=3)
    dictionary.append(unit_rows(1, 4, seed=1), table_of(1, 2))
    assert dictionary.sources.prompts is None
    assert dictionary.sources[2] == Source(*table_of(1, 2)[0].tolist())


@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
@given(stops=st.lists(st.integers(1, 300), min_size=1, max_size=4, unique=True).map(sorted), used=st.booleans())
def test_a_grown_dictionary_encodes_as_one_made_at_once(pursuit, stops, used):
    atoms, n = unit_rows(stops[-1], 24), stops[-1]
    grown = Dictionary(atoms[:0], k=3, pursuit=pursuit, capacity=n)
    start = 0
    for stop in stops:
        if used:  # so that the Gram is there and has to be kept up to date
            grown.encode(activations(2, 24))
        grown.append(atoms[start:stop], table_of(stop - start))
        start = stop
    made = Dictionary(atoms, k=3, pursuit=pursuit)
    assert torch.equal(gram_of(grown), gram_of(made))
    for one, other in zip(grown.encode(activations(5, 24)), made.encode(activations(5, 24)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("pursuit", "function"),
    [("mp", matching_pursuit), ("omp", orthogonal_matching_pursuit), ("gomp", generalised_orthogonal_matching_pursuit)],
)
@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize("error_threshold", [None, 0.4])
@pytest.mark.parametrize("budget", [2**20, 2**30])
def test_codes_are_those_of_the_centred_activations(
    pursuit, function, nonnegative, error_threshold, budget, monkeypatch
):
    monkeypatch.setattr("itda_lightning.pursuit.prepared.padded", lambda n: n if budget > 2**20 else 2**30)
    atoms, bias, x = (t.double() for t in (unit_rows(30, 8), torch.arange(8.0), activations(9, 8)))
    dictionary = Dictionary(
        torch.nn.functional.normalize(atoms, dim=1),
        bias,
        k=4,
        pursuit=pursuit,
        nonnegative=nonnegative,
        memory_budget=budget,
    )
    assert (dictionary.prepared().gram is None) == (budget == 2**20)
    code = dictionary.encode(x, error_threshold)
    expected = function(x - bias, dictionary.atoms, 4, nonnegative, error_threshold)
    assert torch.equal(code.support, expected.support)
    torch.testing.assert_close(code.coefficients, expected.coefficients, rtol=1e-9, atol=1e-11)
    reconstruction = code.to_dense(30) @ dictionary.atoms + bias
    torch.testing.assert_close(dictionary.decode(code), reconstruction)
    torch.testing.assert_close((x - reconstruction).square().sum(-1), code.residual_energy)
    if error_threshold is None:
        assert torch.equal(dictionary(x), dictionary.decode(code))


def test_an_atom_is_its_own_code():
    bias = torch.arange(6.0)
    dictionary = Dictionary(unit_rows(10, 6), bias, k=2)
    x = bias + 5 * dictionary.atoms
    code = dictionary.encode(x)
    assert code.support[:, 0].tolist() == list(range(10))
    torch.testing.assert_close(dictionary.decode(code), x)


def test_an_empty_dictionary_reconstructs_the_bias():
    dictionary = Dictionary(torch.zeros(0, 3), torch.arange(3.0), k=2, capacity=4)
    assert torch.equal(dictionary(activations(2, 3)), torch.arange(3.0).expand(2, 3))
    assert dictionary(torch.zeros(0, 3)).shape == (0, 3)


def test_activations_of_another_width_or_not_finite_are_refused():
    dictionary = Dictionary(unit_rows(4, 3), k=2)
    with pytest.raises(ValueError, match=r"^x must have shape \(\.\.\., 3\), got \(2, 5\)$"):
        dictionary.encode(torch.ones(2, 5))
    with pytest.raises(ValueError, match=r"^x must have shape \(\.\.\., 3\), got \(4,\)$"):
        dictionary.encode(torch.ones(4))
    x = torch.ones(4, 3)
    x[2, 1] = float("nan")
    with pytest.raises(ValueError, match=r"^x has 1 non-finite rows, the first is row 2: drop them$"):
        dictionary.encode(x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("pursuit", ["mp", "omp", "gomp"])
def test_another_precision_encodes_as_a_dictionary_made_of_the_rounded_atoms(dtype, pursuit):
    original = Dictionary(unit_rows(60, 32), 0.1 * torch.ones(32), k=6, pursuit=pursuit)
    original.encode(activations(1, 32))  # the Gram in the old precision must not survive
    moved = original.to(dtype)
    assert moved.atoms.dtype == moved.bias.dtype == dtype
    assert moved.source_table.dtype == torch.int64
    assert moved.n_atoms == 60
    wide = torch.promote_types(dtype, torch.float32)
    x = activations(20, 32, dtype=dtype)
    code = moved.encode(x)
    assert code.coefficients.dtype == moved.prepared().dtype == moved.decode(code).dtype == wide
    exact = Dictionary(moved.atoms.double(), moved.bias.double(), k=6, pursuit=pursuit).encode(x.double())
    # Centring in single precision; codes from a Gram in half precision would be off by 1e-3.
    assert torch.equal(code.support, exact.support)
    torch.testing.assert_close(code.coefficients.double(), exact.coefficients, rtol=1e-4, atol=1e-5)


def test_a_round_trip_through_half_precision_forgets_the_gram():
    dictionary = Dictionary(unit_rows(20, 16), k=2).double()
    before = gram_of(dictionary).clone()
    after = gram_of(dictionary.half().double())
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, dictionary.atoms @ dictionary.atoms.T, rtol=0, atol=1e-12)


def test_state_dict_round_trip_into_the_same_capacity():
    source = Dictionary(unit_rows(5, 4), torch.ones(4), Sources(table_of(5), "data"), k=2, capacity=9)
    target = Dictionary(unit_rows(3, 4, seed=1), sources=sources_of(3), k=2, capacity=9)
    target.encode(activations(2, 4))
    target.load_state_dict(source.state_dict())
    assert target.n_atoms == 5
    assert torch.equal(target.atoms, source.atoms)
    assert torch.equal(target.bias, source.bias)
    assert torch.equal(target.sources.table, table_of(5))
    # Derived from the atoms that were replaced: neither may outlive them.
    assert torch.equal(gram_of(target), gram_of(source))
    assert target.sources.prompts is None
    for one, other in zip(target.encode(activations(6, 4)), source.encode(activations(6, 4)), strict=True):
        assert torch.equal(one, other)


def test_state_dict_holds_the_atoms_once_and_no_gram():
    dictionary = Dictionary(unit_rows(5, 4), k=2)
    dictionary.encode(activations(2, 4))
    assert {name: tuple(value.shape) for name, value in dictionary.state_dict().items()} == {
        "_atoms": (5, 4),
        "bias": (4,),
        "_table": (5, 6),
        "_count": (),
    }


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))], ids=["copy", "pickle"])
def test_a_copy_is_independent(duplicate):
    original = Dictionary(unit_rows(5, 4), sources=sources_of(5), k=2, capacity=6)
    original.encode(activations(2, 4))
    twin = duplicate(original)
    assert torch.equal(gram_of(twin), gram_of(original))
    assert twin.sources.prompts == original.sources.prompts
    twin.append(unit_rows(1, 4, seed=2), table_of(1))
    assert (original.n_atoms, twin.n_atoms) == (5, 6)
    assert torch.equal(gram_of(twin), gram_of(Dictionary(twin.atoms, k=2)))


def test_scratch_beyond_the_atoms_is_never_seen():
    dictionary = Dictionary(unit_rows(3, 4), k=2, capacity=8)
    before = gram_of(dictionary).clone()
    prepared = dictionary.prepared()
    prepared.place(3, unit_rows(4, 4, seed=7))
    prepared.n = 3
    assert torch.equal(dictionary.atoms, unit_rows(3, 4))
    new = unit_rows(2, 4, seed=1)
    dictionary.append(new, table_of(2))
    assert dictionary.prepared() is prepared
    assert torch.equal(gram_of(dictionary)[:3, :3], before)
    assert torch.equal(gram_of(dictionary), gram_of(Dictionary(torch.cat([unit_rows(3, 4), new]), k=2, capacity=8)))


def test_what_was_prepared_is_kept_while_the_atoms_stay_the_same():
    dictionary = Dictionary(unit_rows(40, 8), k=3, capacity=300)
    x = activations(50, 8)
    dictionary.encode(x)
    prepared = dictionary.prepared()
    gram = prepared.gram
    assert gram is not None
    dictionary.encode(x)
    prepared.place(40, unit_rows(3, 8, seed=1))  # growth that appends nothing after all
    prepared.n = 40
    assert dictionary.prepared() is prepared
    dictionary.append(unit_rows(3, 8, seed=2), table_of(3))
    dictionary.encode(x)
    assert dictionary.prepared() is prepared
    assert prepared.gram is gram


def test_a_long_batch_is_encoded_in_parts(monkeypatch):
    dictionary = Dictionary(unit_rows(40, 8), torch.ones(8), k=3)
    x = activations(25, 8)
    whole = dictionary.encode(x)
    monkeypatch.setattr("itda_lightning.pursuit.pruning.ENCODED_ROWS", 10)
    for one, other in zip(dictionary.encode(x), whole, strict=True):
        assert torch.equal(one, other)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_dictionary_on_another_device_gives_the_same_codes():
    dictionary = Dictionary(unit_rows(60, 32, dtype=torch.float64), sources=sources_of(60), k=6, capacity=61)
    x = activations(20, 32, dtype=torch.float64)
    expected = dictionary.encode(x)
    code = dictionary.to("cuda").encode(x.cuda())
    assert torch.equal(code.support.cpu(), expected.support)
    torch.testing.assert_close(code.coefficients.cpu(), expected.coefficients, rtol=1e-9, atol=1e-11)
    dictionary.append(dictionary.atoms[:1], table_of(1))
    assert dictionary.sources.table.device.type == "cpu"
