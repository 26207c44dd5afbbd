"""Every form runs the code that it names, in the precision that it names, and no two forms run the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

from itda_lightning.growth import GROWTH_POLICIES, GrowthRule
from itda_lightning.pursuit import compiled, leave_one_out, prepared, public, pursue
from itda_lightning.pursuit.kernels import gram_rows, pruning_rows, several_steps, single_steps
from tests.pursuit.cases import Case, make_case
from tests.pursuit.forms import COMPILED, DTYPES, FORMS, GOMP_FORMS, PRUNING_FORMS, forms, of_form, prepare, with_room

FORMS_OF = {"mp": FORMS, "omp": FORMS, "gomp": GOMP_FORMS}
STORED = (torch.float32, torch.bfloat16)


class Call(NamedTuple):
    """One call of code that does the work: its name, the dtype of the atoms it is given, and that of a screen."""

    name: str
    atoms: str
    screen: str = ""


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Record what is called: compiled loops, screens, products, and the correlations of plain torch."""
    made: list[Call] = []
    for stored in STORED:
        assert prepared.compiler_works(stored)  # which runs them

    def spy(owner: Any, name: str, call_of: Callable[..., Call]) -> None:
        function = getattr(owner, name)

        def spied(*arguments: Any, **options: Any) -> Any:
            made.append(call_of(*arguments, **options))
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, spied)

    spy(gram_rows, "pursue_rows", lambda start, stop, problem, *_: Call("gram rows", str(problem.atoms.dtype)))
    spy(gram_rows, "pursue_and_append", lambda problem, *_: Call("grow with a gram", str(problem.atoms.dtype)))
    for module in (single_steps, several_steps):
        name = module.__name__.split(".")[-1].replace("_", " ")
        spy(module, "take", lambda start, stop, step, problem, *_, name=name: Call(name, str(problem.atoms.dtype)))
    spy(pruning_rows, "prune_rows", lambda start, stop, problem, *_: Call("prune rows", str(problem.atoms.dtype)))
    spy(
        compiled,
        "screen",
        lambda x, atoms, room, half: Call("screen", str(atoms.rows.dtype), "half" if half else "single"),
    )
    spy(
        compiled,
        "products_in_parts",
        lambda x, atoms, room, *_: Call(
            "products", str(atoms.rows.dtype), "half" if room.dtype == torch.bfloat16 else "single"
        ),
    )
    for name in ("GramCorrelations", "ResidualCorrelations"):
        spy(public, name, lambda x, atoms, *_, name=name: Call(name, str(atoms.dtype)))
    return made


def atoms_name(form: str, stored: torch.dtype) -> str:
    if form not in COMPILED:
        return str(stored)
    return "uint16" if stored == torch.bfloat16 else "float32"  # numpy knows no bfloat16


def screened(form: str, stored: torch.dtype, name: str = "screen") -> Call:
    return Call(name, str(stored), "half" if form.endswith("half") else "single")


def expected(pursuit: str, form: str, stored: torch.dtype) -> set[Call]:
    if form == "torch gram" and pursuit != "gomp":
        return {Call("GramCorrelations", str(stored))}
    if form.startswith("torch"):
        return {Call("ResidualCorrelations", str(stored))}
    loops = "several steps" if pursuit == "gomp" else "gram rows" if form.startswith("gram") else "single steps"
    screen = "screen" if loops == "gram rows" else "products"
    return {screened(form, stored, screen), Call(loops, atoms_name(form, stored))}


def small(form: str) -> Case:
    return of_form(make_case("random", 6, 40, 12, 4, 1.0, 0), form)


def stored_as(form: str) -> tuple[torch.dtype, ...]:
    return STORED if form in COMPILED else (*STORED, DTYPES[form])


@pytest.mark.parametrize(("pursuit", "form"), [(name, form) for name in FORMS_OF for form in FORMS_OF[name]])
def test_a_form_runs_the_code_it_names(calls, pursuit, form):
    for stored in stored_as(form):
        calls.clear()
        case = small(form)
        x = case.x.to(torch.promote_types(stored, torch.float32))
        code = pursue(pursuit, x, prepare(case.atoms.to(stored), form), case.k)
        assert code.coefficients.dtype == x.dtype
        assert set(calls) == expected(pursuit, form, stored)


def test_no_two_forms_run_the_same():
    for pursuit, names in FORMS_OF.items():
        runs = [frozenset(expected(pursuit, form, DTYPES[form])) for form in names]
        assert len(set(runs)) == len(runs)


@pytest.mark.parametrize("form", PRUNING_FORMS)
def test_pruning_is_compiled_where_pursuits_are(calls, form):
    case = small(form)
    ready = prepare(case.atoms, form)
    code = pursue("omp", case.x, ready, case.k)
    calls.clear()
    leave_one_out(code, case.x, ready, 0.05, False)
    assert set(calls) == ({Call("prune rows", "float32")} if form in COMPILED else set())


@forms
@pytest.mark.parametrize("policy", list(GROWTH_POLICIES))
def test_growth_runs_the_code_it_names(calls, policy, form):
    for stored in stored_as(form):
        calls.clear()
        case = small(form)
        x = case.x.to(torch.promote_types(stored, torch.float32))
        grown = GROWTH_POLICIES[policy](
            x, with_room(case.atoms[:5].to(stored), 20, form), GrowthRule(3, "omp", False, 0.1)
        )
        assert len(grown.accepted) > 1
        if policy == "sequential" and form.startswith("gram"):
            assert set(calls) == {screened(form, stored), Call("grow with a gram", atoms_name(form, stored))}
        else:
            assert set(calls) == expected("omp", form, stored)
