"""Anchored refinement: atoms never leave their cones, and codes get better for it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from itda_lightning.growth import (
    GrowthRule,
    RefinementRule,
    RefinementState,
    descent,
    grow_sequential,
    project_on_cones,
    refinement_step,
)
from itda_lightning.growth.cone_descent import Descent
from itda_lightning.pursuit import (
    PreparedAtoms,
    generalised_orthogonal_matching_pursuit,
    judging,
    matching_pursuit,
    orthogonal_matching_pursuit,
)
from tests.growth.naive import mixtures

PURSUITS = [("mp", False), ("omp", False), ("mp", True), ("gomp", True)]
PUBLIC = {
    "mp": matching_pursuit,
    "omp": orthogonal_matching_pursuit,
    "gomp": generalised_orthogonal_matching_pursuit,
}
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
anchors = st.sampled_from([0.0, 0.3, 0.8, 0.85, 0.9, 0.97, 0.999])


def random_rows(n: int, d: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def cosines(atoms: Tensor, sources: Tensor) -> Tensor:
    return cosine_similarity(atoms.double(), sources.double())


def rule_of(anchor: float = 0.9, steps: int = 40, k: int = 4, pursuit: str = "mp", **others) -> RefinementRule:
    return RefinementRule(
        k, pursuit, **({"nonnegative": False, "anchor": anchor, "rate": 0.1, "steps": steps} | others)
    )


def refined(x: Tensor, sources: Tensor, rule: RefinementRule, batch: int = 200) -> list[RefinementState]:
    """The states after every step over the batches of x, again and again."""
    states = [RefinementState.start(sources)]
    while len(states) <= rule.steps:
        part = x.split(batch)[(len(states) - 1) % len(x.split(batch))]
        states.append(refinement_step(states[-1], descent(part, states[-1].atoms, rule), sources, rule))
    return states


def unexplained(x: Tensor, atoms: Tensor, rule: RefinementRule) -> float:
    """Mean share of energy, by the public pursuits."""
    pursue = PUBLIC[rule.pursuit]
    return float((pursue(x, atoms, rule.k, rule.nonnegative).residual_energy / x.square().sum(1)).mean())


@given(d=st.integers(2, 6), anchor=anchors, scale=st.sampled_from([1e-6, 1.0, 1e6]), seed=st.integers(0, 2**31))
def test_the_projection_is_the_nearest_point_of_the_cone_on_the_sphere(d, anchor, scale, seed):
    source, vector = normalize(random_rows(1, d, seed), dim=1), scale * random_rows(1, d, seed + 1)
    projected = project_on_cones(vector, source, anchor)
    assert float(projected.norm()) == pytest.approx(1, abs=1e-12)
    assert float(cosines(projected, source)) >= anchor
    # On the sphere nearer means a larger inner product. The points tried: all over the cone, and close to the answer.
    noise = random_rows(4000, d, seed + 2) * torch.logspace(-6, 0, 4000, dtype=torch.float64)[:, None]
    everywhere = normalize(source + (1 - anchor**2) ** 0.5 * random_rows(4000, d, seed + 3), dim=1)
    tried = torch.cat([normalize(projected + noise, dim=1), everywhere])
    inside = tried[(tried @ source.T)[:, 0] >= anchor + 1e-12]
    assert len(inside) > 100
    assert float((inside @ vector[0]).max()) <= float(projected[0] @ vector[0]) + 1e-9 * scale


@given(
    d=st.integers(1, 40),
    dtype=st.sampled_from(DTYPES),
    anchor=anchors,
    far=st.sampled_from([0.01, 0.3, 3.0]),
    seed=st.integers(0, 2**31),
)
def test_no_rounding_leads_out_of_the_cone(d, dtype, anchor, far, seed):
    sources = normalize(random_rows(50, d, seed), dim=1).to(dtype)
    vectors = sources.double() + far * random_rows(50, d, seed + 1)
    projected = project_on_cones(vectors.to(torch.float32), sources, anchor)
    assert projected.dtype == dtype
    assert bool((cosines(projected, sources) >= anchor).all())


def test_a_vector_without_a_nearest_point_becomes_its_source():
    sources = normalize(random_rows(3, 8, 0, torch.float32), dim=1)
    vectors = torch.stack([-2 * sources[0], torch.zeros(8), 3 * sources[2]])
    torch.testing.assert_close(project_on_cones(vectors, sources, 0.9), sources)
    assert project_on_cones(vectors[:0], sources[:0], 0.9).shape == (0, 8)


@given(d=st.integers(1, 6), dtype=st.sampled_from(DTYPES), seed=st.integers(0, 2**31))
def test_without_an_anchor_only_lengths_change(d, dtype, seed):
    sources, vectors = normalize(random_rows(9, d, seed), dim=1).to(dtype), 3 * random_rows(9, d, seed + 1)
    vectors[7], vectors[8] = -2 * sources[7], 0
    expected = torch.cat([normalize(vectors[:8], dim=1).to(dtype), sources[8:]])
    torch.testing.assert_close(project_on_cones(vectors, sources, None), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_the_direction_is_minus_half_the_gradient_of_the_unexplained_share(pursuit, nonnegative):
    x, atoms = 5 * random_rows(60, 12, 1), normalize(random_rows(20, 12, 2), dim=1)
    rule = rule_of(pursuit=pursuit, nonnegative=nonnegative)
    unit = normalize(x, dim=1)
    pursue = PUBLIC[pursuit]
    dense = pursue(unit, atoms, rule.k, nonnegative).to_dense(20)
    free = atoms.clone().requires_grad_()
    loss = (unit - dense @ free).square().sum()
    (gradient,) = torch.autograd.grad(loss, free)
    sums = descent(x, atoms, rule)
    torch.testing.assert_close(sums.direction, (-gradient / 2).float(), rtol=1e-5, atol=1e-6)
    assert float(sums.unexplained) == pytest.approx(float(loss.detach()), rel=1e-9)
    assert int(sums.activations) == 60


def test_sums_of_parts_add_up_to_those_of_the_whole():
    x, atoms, rule = random_rows(90, 12, 1), normalize(random_rows(20, 12, 2), dim=1), rule_of()
    whole = descent(x, atoms, rule)
    parts = [descent(part, atoms, rule) for part in x.split([10, 50, 30])]
    for one, several in zip(whole, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(sum(several), one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("anchor", [0.8, 0.9, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_atoms_stay_in_their_cones_at_every_step(anchor, dtype):
    x = mixtures(600, 24, seed=1, dtype=torch.float32)
    sources = normalize(x[:60], dim=1).to(dtype)
    states = refined(x, sources, rule_of(anchor, 30))
    for state in states:
        assert bool((cosines(state.atoms, sources) >= anchor).all())
    least = float(cosines(states[-1].atoms, sources).min())
    assert least < anchor + 0.02  # some reached the edge


def test_an_anchor_of_1_leaves_atoms_as_they_are():
    x = mixtures(300, 24, seed=1, dtype=torch.float32)
    sources = normalize(x[:40], dim=1)
    assert torch.equal(refined(x, sources, rule_of(1.0, 5))[-1].atoms, sources)


def test_an_atom_that_is_never_used_stays_as_it_is():
    x = mixtures(300, 24, seed=1, dtype=torch.float32)
    x[:, -1] = 0
    sources = normalize(torch.cat([x[:40], torch.eye(24)[-1:]]), dim=1)
    atoms = refined(x, sources, rule_of(steps=5))[-1].atoms
    assert torch.equal(atoms[-1], sources[-1])
    assert not (atoms[:-1] == sources[:-1]).all(1).any()


@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_a_planted_dictionary_is_come_back_to(pursuit, nonnegative):
    generator = torch.Generator().manual_seed(3)
    planted = normalize(random_rows(40, 32, 4), dim=1)
    chosen = torch.stack([torch.randperm(40, generator=generator)[:3] for _ in range(3000)])
    weights = 1 + torch.rand(3000, 3, generator=generator, dtype=torch.float64)
    x = (weights[:, :, None] * planted[chosen]).sum(1).float()
    noise = random_rows(40, 32, 5)
    sources = project_on_cones(planted + 0.3 * noise / noise.norm(dim=1, keepdim=True), planted, 0.92).float()
    rule = rule_of(0.85, 60, 3, pursuit, nonnegative=nonnegative)
    atoms = refined(x, sources, rule)[-1].atoms
    assert unexplained(x, atoms, rule) < 0.3 * unexplained(x, sources, rule)
    assert float(cosines(atoms, planted).mean()) > 0.99 > 0.97 > float(cosines(sources, planted).mean())


@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_grown_atoms_explain_their_activations_better_when_refined(pursuit, nonnegative):
    x = mixtures(1000, 32, seed=2, dtype=torch.float32) + 0.1 * random_rows(1000, 32, 6, torch.float32)
    buffer = torch.zeros(150, 32)
    grown = grow_sequential(x, PreparedAtoms(buffer, 0), GrowthRule(4, judging(pursuit), nonnegative, 0.25)).atoms
    rule = rule_of(k=4, pursuit=pursuit, nonnegative=nonnegative, steps=20)
    shares = [unexplained(x, atoms, rule) for atoms in (grown, refined(x, grown, rule)[-1].atoms)]
    assert shares[1] < 0.9 * shares[0]


def test_two_steps_by_hand():
    """Adam with one second moment per atom, the rate falling linearly: the first step is about ``rate`` radians."""
    sources = torch.eye(3)[:2]
    directions = torch.tensor([[[0.0, 4.0, 3.0], [0.0, 0.0, 0.0]], [[0.0, 0.0, 10.0], [0.0, 0.0, 0.0]]])
    rule, state = rule_of(anchor=0.0, steps=4), RefinementState.start(sources)
    sums = torch.tensor(0.0).double(), torch.tensor(2), torch.zeros(2, dtype=torch.int64)
    first, second, atom = torch.zeros(3).double(), 0.0, sources[0].double()
    for step, direction in enumerate(directions):
        state = refinement_step(state, Descent(direction, *sums), sources, rule)
        gradient = direction[0].double() / 2
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * float(gradient.square().sum())
        mean, size = first / (1 - 0.9 ** (step + 1)), (second / (1 - 0.999 ** (step + 1))) ** 0.5
        atom = normalize(atom + 0.1 * (1 - step / 4) * mean / size, dim=0)
        torch.testing.assert_close(state.atoms[0].double(), atom, rtol=0, atol=1e-6)
        assert torch.equal(state.atoms[1], sources[1]), "no activation used it"
        assert int(state.step) == step + 1
        if step == 0:
            assert float(torch.atan2(state.atoms[0, 1:].norm(), state.atoms[0, 0])) == pytest.approx(0.1, rel=0.01)


def test_after_the_last_step_of_the_rule_no_atom_moves():
    x, rule = mixtures(200, 12, seed=1, dtype=torch.float32), rule_of(steps=3)
    sources = normalize(x[:20], dim=1)
    last = refined(x, sources, rule)[-1]
    assert torch.equal(refinement_step(last, descent(x, last.atoms, rule), sources, rule).atoms, last.atoms)


def test_a_few_activations_of_enormous_norm_do_not_count_for_more():
    x = mixtures(400, 24, seed=1, dtype=torch.float32)
    sources, scaled = normalize(x[:40], dim=1), x.clone()
    scaled[::50] *= 1024  # a power of two, so that nothing is rounded otherwise
    assert torch.equal(*(refined(some, sources, rule_of(steps=4))[-1].atoms for some in (x, scaled)))


def test_nothing_depends_on_the_basis():
    x, sources = mixtures(400, 24, seed=1, dtype=torch.float64), normalize(random_rows(40, 24, 3), dim=1)
    turn = torch.linalg.qr(random_rows(24, 24, 9))[0]
    plain, turned = (refined(x @ by, sources @ by, rule_of(steps=4))[-1].atoms for by in (torch.eye(24).double(), turn))
    torch.testing.assert_close(turned, plain @ turn, rtol=0, atol=1e-4)


def test_the_same_steps_give_the_same_bits_and_can_be_taken_up_at_any():
    x = mixtures(600, 24, seed=1, dtype=torch.float32)
    sources, rule = normalize(x[:60], dim=1), rule_of(steps=9)
    one, other = refined(x, sources, rule), refined(x, sources, rule)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(*pair) for pair in zip(a, b, strict=True))
    state = RefinementState(*(value.clone() for value in one[6]))
    for part in x.split(200):
        state = refinement_step(state, descent(part, state.atoms, rule), sources, rule)
    assert torch.equal(state.atoms, one[9].atoms)


def test_an_activation_without_energy_changes_nothing_but_the_count():
    atoms, x = normalize(random_rows(20, 12, 2), dim=1), random_rows(30, 12, 1)
    some, more = (descent(part, atoms, rule_of()) for part in (x, torch.cat([x, torch.zeros(1, 12)])))
    torch.testing.assert_close(more.direction, some.direction)
    assert int(more.activations) == 31
    assert torch.equal(more.uses, some.uses)


@pytest.mark.parametrize(("pursuit", "nonnegative"), PURSUITS)
def test_uses_count_the_codes_with_an_atom(pursuit, nonnegative):
    atoms, x = normalize(random_rows(20, 12, 2), dim=1), random_rows(90, 12, 1)
    x[0] = -atoms[0]  # a code without atoms, if it is non-negative
    dense = PUBLIC[pursuit](normalize(x, dim=1), atoms, 4, nonnegative).to_dense(20)
    uses = descent(x, atoms, rule_of(pursuit=pursuit, nonnegative=nonnegative)).uses
    assert torch.equal(uses, (dense != 0).sum(0))
