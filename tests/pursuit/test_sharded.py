"""Pursuits over atoms split over processes, in groups of 2 and 4, against the oracle and against one process."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import distributed

from itda_lightning.pursuit import ShardedAtoms, SparseCode, pursue
from tests.process_groups import GroupError, run_in_group
from tests.pursuit.cases import KINDS, Case, make_case, unit_rows
from tests.pursuit.forms import prepare
from tests.pursuit.test_against_oracle import assert_matches_oracle


class Problem(NamedTuple):
    pursuit: str
    case: Case
    nonnegative: bool
    error_threshold: float | None
    gram: bool


def rows_of(rank: int, ranks: int, n: int) -> slice:
    return slice(n * rank // ranks, n * (rank + 1) // ranks)


def codes_of(problems: list[Problem]) -> list[SparseCode]:
    """Runs in every process of a group."""
    codes = []
    for pursuit, case, nonnegative, error_threshold, gram in problems:
        mine = case.atoms[rows_of(distributed.get_rank(), distributed.get_world_size(), len(case.atoms))]
        atoms = ShardedAtoms(mine)
        assert atoms.columns is not None
        if not gram:
            atoms.columns = None
        codes.append(atoms.pursue(pursuit, case.x, case.k, nonnegative, error_threshold))
    return codes


def all_codes(ranks: int, problems: list[Problem]) -> list[SparseCode]:
    """The codes, which must be the same in every process."""
    first, *others = run_in_group(ranks, codes_of, problems)
    for other in others:
        for one, same in zip(first, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    return first


def problems_of(dtype: torch.dtype, kinds: tuple[str, ...] = KINDS) -> list[Problem]:
    problems = []
    for seed, kind in enumerate(kinds):
        for pursuit in ("mp", "omp"):
            for nonnegative in (False, True):
                for gram in (False, True):
                    case = make_case(kind, 5, 7 + 11 * seed, 4 + 5 * seed, 6, 10.0 ** (seed - 1), seed)
                    case = Case(case.x.to(dtype), case.atoms.to(dtype), case.k)
                    problems.append(Problem(pursuit, case, nonnegative, 0.1 if seed % 3 == 1 else None, gram))
    return problems


def problems_of_one_process() -> list[Problem]:
    return [problem for dtype in (torch.float32, torch.bfloat16) for problem in problems_of(dtype, KINDS[:2])]


def problems_with_equal_atoms() -> list[Problem]:
    atoms = unit_rows(torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    case = Case(5 * atoms, atoms.repeat(4, 1), 1)
    return [Problem(pursuit, case, False, None, gram) for pursuit in ("mp", "omp") for gram in (False, True)]


def problems_in(ranks: int) -> list[Problem]:
    """Every kind in 2 and in 4 processes: in single precision in the one, in double precision in the other.

    In 4 processes either with the columns and non-negative, or neither.
    """
    kinds = (KINDS[1::2], KINDS[::2]) if ranks == 2 else (KINDS[::2], KINDS[1::2])
    problems = [*problems_of(torch.float64, kinds[0]), *problems_of(torch.float32, kinds[1])]
    return problems if ranks == 2 else [problem for problem in problems if problem.gram == problem.nonnegative]


@cache
def codes_in(ranks: int) -> tuple[list[SparseCode], list[SparseCode]]:
    """Codes of ``problems_in``, and of the problems that are run in groups of this size alone."""
    others = problems_of_one_process() if ranks == 2 else problems_with_equal_atoms()
    codes = all_codes(ranks, [*problems_in(ranks), *others])
    return codes[: -len(others)], codes[-len(others) :]


@pytest.mark.long
@pytest.mark.parametrize("ranks", [2, 4])
def test_codes_match_the_oracle(ranks):
    for problem, code in zip(problems_in(ranks), codes_in(ranks)[0], strict=True):
        assert code.coefficients.dtype == problem.case.x.dtype
        assert_matches_oracle(problem.pursuit, code, problem.case, problem.nonnegative, problem.error_threshold)


def test_codes_are_those_of_one_process():
    for problem, code in zip(problems_of_one_process(), codes_in(2)[1], strict=True):
        pursuit, case, nonnegative, error_threshold, gram = problem
        prepared = prepare(case.atoms, "torch gram" if gram else "torch residual")
        expected = pursue(pursuit, case.x, prepared, case.k, nonnegative, error_threshold)
        assert torch.equal(code.support, expected.support)
        scale = case.x.float().norm(dim=1)
        assert ((code.coefficients - expected.coefficients).abs().amax(1) <= 1e-4 * scale).all()
        assert ((code.residual_energy - expected.residual_energy).abs() <= 1e-5 * scale**2).all()


def test_of_equal_atoms_the_first_is_taken_whoever_has_it():
    for code in codes_in(4)[1]:
        assert code.support[:, 0].tolist() == [0, 1, 2]


def parts_and_blocks(case: Case) -> list[object]:
    rank = distributed.get_rank()
    mine = case.atoms[rows_of(rank, distributed.get_world_size(), len(case.atoms))]
    small, large = ShardedAtoms(mine, 2**20 if rank == 0 else 2**30), ShardedAtoms(mine, 2**30)
    codes = [atoms.pursue("omp", case.x, case.k) for atoms in (small, large)]
    empty = large.pursue("mp", case.x[:0], 3)
    reconstruction = large.part_of(codes[1])
    distributed.all_reduce(reconstruction)
    return [small.columns is None, large.columns is None, *codes, empty, reconstruction]


def test_the_smallest_budget_decides_the_form_and_codes_do_not_depend_on_it():
    case = make_case("random", 300, 600, 16, 6, 1.0, 3)
    for without, with_columns, small, large, empty, reconstruction in run_in_group(2, parts_and_blocks, case):
        assert without
        assert not with_columns
        assert torch.equal(small.support, large.support)
        torch.testing.assert_close(small.coefficients, large.coefficients, rtol=1e-9, atol=1e-12)
        assert empty.support.shape == (0, 3)
        torch.testing.assert_close(reconstruction, large.to_dense(600) @ case.atoms)
        energy = (case.x - reconstruction).square().sum(1)
        torch.testing.assert_close(large.residual_energy, energy, rtol=1e-9, atol=1e-12)


def shards_of_other_shapes(shapes: list[tuple[int, int]]) -> None:
    ShardedAtoms(torch.nn.functional.normalize(torch.ones(shapes[distributed.get_rank()]), dim=1))


@pytest.mark.parametrize("shapes", [[(3, 4), (0, 4)], [(3, 4), (3, 5)]])
def test_shards_that_do_not_fit_together_are_refused_by_every_process(shapes):
    with pytest.raises(GroupError, match="ValueError: the processes have") as raised:
        run_in_group(2, shards_of_other_shapes, shapes)
    assert set(raised.value.errors) == {0, 1}


def test_one_process_needs_no_group():
    case = make_case("random", 6, 30, 8, 4, 1.0, 0)
    code = ShardedAtoms(case.atoms).pursue("mp", case.x, case.k)
    expected = pursue("mp", case.x, prepare(case.atoms, "torch gram"), case.k)
    assert torch.equal(code.support, expected.support)
    torch.testing.assert_close(code.coefficients, expected.coefficients)
    with pytest.raises(ValueError, match=r"^x has 7 dimensions and the atoms have 8$"):
        ShardedAtoms(case.atoms).pursue("mp", case.x[:, :7], 2)
