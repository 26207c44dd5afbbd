"""Prepared atoms keep what budget, use and machine allow, and never change the codes."""

import logging

import pytest
import torch
from torch import Tensor

from itda_lightning.machine.memory import memory_budget
from itda_lightning.pursuit import PURSUITS, PreparedAtoms, PursuitName, matching_pursuit, prepared, pursue
from itda_lightning.pursuit.compiled import rows_at_a_time
from itda_lightning.pursuit.gram import UNIT
from itda_lightning.pursuit.kernels import compile_all as kernels
from tests.processes import run_python
from tests.pursuit.cases import make_case

CASE = make_case("random", 20, 300, 32, 6, 1.0, 0)
X, ATOMS = CASE.x.float(), CASE.atoms.float()
CPU = torch.device("cpu")


def test_the_loops_compile_here():
    # Everything would still pass in plain torch, several times slower.
    assert prepared.compiler_works()
    assert PreparedAtoms(ATOMS, 300).compiled


def test_without_a_compiler_pursuits_are_plain_torch_and_the_log_says_so(monkeypatch, caplog):
    def failing(half: bool) -> None:
        raise ImportError("No module named 'llvmlite'")

    monkeypatch.setattr(kernels, "compile_all", failing)
    prepared.compiler_works.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            plain = PreparedAtoms(ATOMS, 300)
        assert not plain.compiled
        assert "pursuits run in plain torch, several times slower: numba cannot compile them (No module" in caplog.text
        code = pursue("mp", X, plain, 6)
    finally:
        prepared.compiler_works.cache_clear()
    monkeypatch.undo()
    expected = pursue("mp", X, PreparedAtoms(ATOMS, 300), 6)
    assert torch.equal(code.support, expected.support)
    torch.testing.assert_close(code.coefficients, expected.coefficients)


def test_a_gram_is_built_once_its_products_are_repaid():
    atoms = PreparedAtoms(ATOMS, 300)

    def gram_after(pursuit: PursuitName, activations: int, k: int) -> Tensor | None:
        PURSUITS[pursuit].init(atoms, activations, k)
        return atoms.gram

    assert gram_after("omp", 20, 6) is None  # 20 activations x 5 further steps
    assert gram_after("mp", 20, 1) is None  # a single step needs no Gram
    assert gram_after("gomp", 4000, 6) is None  # whose steps are products with all atoms
    gram = gram_after("omp", 40, 6)
    assert gram is not None
    torch.testing.assert_close(gram[:300, :300] * UNIT, ATOMS @ ATOMS.T, rtol=0, atol=UNIT)


def test_the_budget_decides_what_is_kept():
    atoms = torch.nn.functional.normalize(torch.randn(2000, 64, generator=torch.Generator().manual_seed(0)), dim=1)
    gram, copy = 2000 * 2048 * 2, 2000 * 64 * 2
    for budget, has_gram in ((int((gram + copy) / 0.75) + 1, True), (int((gram + copy) / 0.75) - 100, False)):
        kept = PreparedAtoms(atoms, 2000, budget, half=True)
        kept.build_gram()
        assert kept.coarse.used
        assert (kept.gram is not None) == has_gram
        assert kept.coarse.copy is not None
    more = torch.cat([atoms] * 9)
    without_copy = PreparedAtoms(
        more, 18_000, 2 * 2_200_000, half=True
    )  # less than twice the 2,304,000 bytes of a copy
    assert without_copy.coarse.used
    assert without_copy.coarse.copy is None
    assert torch.equal(without_copy.coarse.part(3, 9), atoms[3:9].to(torch.bfloat16))
    x = torch.randn(40, 64, generator=torch.Generator().manual_seed(1))
    with_copy = PreparedAtoms(more, 18_000, half=True)
    assert with_copy.coarse.copy is not None
    for one, other in zip(pursue("omp", x, without_copy, 5), pursue("omp", x, with_copy, 5), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(kept.coarse.part(3, 9), atoms[3:9].to(torch.bfloat16))
    assert not PreparedAtoms(more, 18_000, 2**20, half=True).coarse.used  # a rounded part would be half of it


def test_a_coarse_screen_that_rules_out_little_is_given_up(monkeypatch):
    monkeypatch.setattr("itda_lightning.pursuit.coarse.half_products_pay", lambda: True)
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(2000, 64, generator=generator), dim=1)
    dense = torch.randn(100, 64, generator=generator)
    cases = [(atoms[:100] * 3, True), (dense, False)]  # an atom itself is found at once; nothing explains noise
    for x, pays in cases:
        chosen, fixed = PreparedAtoms(atoms, 2000), PreparedAtoms(atoms, 2000, half=True)
        for one in (chosen, fixed):
            one.build_gram()
            assert one.coarse.used_with_gram
        first, again, always = pursue("mp", x, chosen, 24), pursue("mp", x, chosen, 24), pursue("mp", x, fixed, 24)
        assert chosen.coarse.used_with_gram == pays
        assert chosen.coarse.used
        assert fixed.coarse.used_with_gram
        for before, after, fixedly in zip(first, again, always, strict=True):
            assert torch.equal(before, after)
            assert torch.equal(before, fixedly)


@pytest.mark.parametrize("k", [4, 64])
def test_blocks_stay_within_a_quarter_of_the_budget(k):
    kept = PreparedAtoms(ATOMS, 300, 2**20)
    assert rows_at_a_time(kept, k, takes_gram=False) * (2 * 300 + 10 * 32 + 8 * k * k) <= 2**18
    kept.build_gram()
    assert 1 <= rows_at_a_time(kept, k, takes_gram=True) * 6 * 300 <= 2**18


def test_a_budget_is_a_number_of_bytes():
    assert memory_budget(CPU, 2**30) == 2**30
    assert 2**28 < memory_budget(CPU) < 2**45
    message = r"^memory_budget is in bytes and must be at least 1,048,576 \(1 MiB\), got 12$"
    with pytest.raises(ValueError, match=message):
        memory_budget(CPU, 12)
    with pytest.raises(ValueError, match=message):
        matching_pursuit(X, ATOMS, 3, memory_budget=12)


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    limit = tmp_path / "memory.max"
    monkeypatch.setattr("itda_lightning.machine.memory.CGROUP_LIMIT", limit)
    free = memory_budget(CPU)
    limit.write_text("max\n")
    assert memory_budget(CPU) == free
    limit.write_text(f"{2**24}\n")
    assert memory_budget(CPU) == 2**23


@pytest.mark.parametrize("budget", [2**20, 2**22, 2**26])
def test_public_codes_do_not_depend_on_the_budget(budget):
    usual = matching_pursuit(X, ATOMS, 6)
    for one, other in zip(matching_pursuit(X, ATOMS, 6, memory_budget=budget), usual, strict=True):
        assert torch.equal(one, other)


def test_placed_atoms_are_those_of_a_dictionary_made_at_once():
    grown = PreparedAtoms(torch.zeros(300, 32), 0)
    grown.build_gram()
    grown.place(0, ATOMS[:130])
    grown.place(130, ATOMS[130:200], ATOMS[130:200] @ ATOMS[:200].T)
    grown.place(200, ATOMS[200:])
    for one, other in zip(pursue("omp", X, grown, 6), pursue("omp", X, PreparedAtoms(ATOMS, 300), 6), strict=True):
        assert torch.equal(one, other)


STREAM = """
import resource, torch
from itda_lightning.pursuit import PreparedAtoms, matching_pursuit
n, d, batch, k, budget = 16384, 16, 12_000, 4, 200 * 2**20
generator = torch.Generator().manual_seed(0)
atoms = torch.nn.functional.normalize(torch.randn(n, d, generator=generator), dim=1)
x = torch.randn(batch, d, generator=generator)
matching_pursuit(x[:100], atoms, k, memory_budget=budget)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
code = matching_pursuit(x, atoms, k, memory_budget=budget)
result = sum(part.numel() * part.itemsize for part in code)
print(peak() - before - result, budget)
"""


@pytest.mark.long
def test_a_long_batch_streams_within_the_budget():
    # Dense codes would take 800 MB, the Gram 512 MiB; a fresh process, so that its peak is this run's own.
    done = run_python("-c", STREAM)
    above, budget = map(int, done.stdout.split()[-2:])
    assert above <= budget
