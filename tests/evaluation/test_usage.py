"""Usage from the codes of held-out tokens against a slow recomputation that keeps everything."""

import math
from collections import defaultdict

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from itda_lightning.dictionary.dictionary import Dictionary
from itda_lightning.dictionary.sources import Prompt, Source, Sources
from itda_lightning.errors import InputError
from itda_lightning.evaluation.decomposition import decompose
from itda_lightning.evaluation.held_out_codes import CodesMeter, best_of_groups
from itda_lightning.evaluation.usage import UsageMeter
from itda_lightning.evaluation.used_latents import used_of
from itda_lightning.results.run_results import AtomUsage, Example, Usage

K, N, D, TOKENS = 5, 24, 10, 700


def prompt_of(source: Source) -> Prompt:
    return Prompt(f"document {source.document} up to ", str(source.position), " and on")


def make_table(tokens: int) -> torch.Tensor:
    index = torch.arange(tokens)
    return torch.stack([index // 50, index // 10, index % 10, index % 7, index % 50 * 3, index % 50 * 3 + 2], 1)


@pytest.fixture
def dictionary() -> Dictionary:
    generator = torch.Generator().manual_seed(0)
    atoms = torch.nn.functional.normalize(torch.randn(N, D, generator=generator, dtype=torch.float64), dim=1)
    # The last two atoms lie in a direction that the activations avoid, so nothing ever picks them.
    atoms[-2:] = torch.eye(D, dtype=torch.float64)[-1]
    atoms[:-2, -1] = 0
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    bias = torch.randn(D, generator=generator, dtype=torch.float64)
    prompts = tuple(Prompt("the ", f"atom{i}", "") for i in range(N))
    return Dictionary(atoms, bias, Sources(make_table(N), "fit", prompts), k=K)


@pytest.fixture
def activations(dictionary: Dictionary) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    # Scales over six orders of magnitude, so that limits differ widely.
    scale = 10 ** (6 * torch.rand(TOKENS, 1, generator=generator, dtype=torch.float64) - 3)
    x = torch.randn(TOKENS, D, generator=generator, dtype=torch.float64) * scale
    x[:, -1] = 0
    return x + dictionary.bias


def measure(dictionary: Dictionary, x: torch.Tensor, batch: int, **options: int) -> Usage:
    meter = UsageMeter(dictionary, **options)
    for part, table in zip(x.split(batch), make_table(len(x)).split(batch), strict=True):
        meter.update(part, table)
    return meter.compute(prompt_of)


def examples_by_place(atom: AtomUsage) -> list[tuple[Example, ...]]:
    return [atom.top, *(part.examples for part in atom.ranges)]


def slow_coefficients(dictionary: Dictionary, x: torch.Tensor) -> list[dict[int, float]]:
    """Matching pursuit token by token in pure Python; one {atom: coefficient} per token."""
    atoms = dictionary.atoms.tolist()
    codes = []
    for row in (x - dictionary.bias).tolist():
        residual = list(row)
        code: dict[int, float] = defaultdict(float)
        norm = math.sqrt(sum(value * value for value in row))
        for _ in range(dictionary.k):
            scores = [sum(a * r for a, r in zip(atom, residual, strict=True)) for atom in atoms]
            best = max(range(len(atoms)), key=lambda i: abs(scores[i]))
            if abs(scores[best]) <= 1e-6 * norm:
                break
            code[best] += scores[best]
            residual = [r - scores[best] * a for r, a in zip(residual, atoms[best], strict=True)]
        codes.append(dict(code))
    return codes


def test_counts_agree_with_a_slow_recomputation(dictionary, activations):
    usage = measure(dictionary, activations, batch=64)
    codes = slow_coefficients(dictionary, activations)
    assert usage.n_tokens == TOKENS
    assert usage.l0_histogram == tuple(sum(len(code) == l0 for code in codes) for l0 in range(K + 1))
    assert usage.l0 == pytest.approx(sum(map(len, codes)) / TOKENS)
    assert usage.dead_atoms == 2
    for atom in usage.atoms:
        values = [code[atom.atom] for code in codes if atom.atom in code]
        assert atom.count == len(values) == sum(atom.histogram)
        assert atom.density == atom.count / TOKENS
        if not values:
            assert (atom.histogram_limit, atom.top, atom.ranges) == (0.0, (), ())
            continue
        largest = max(map(abs, values))
        assert largest < atom.histogram_limit <= 2 * largest
        width = 2 * atom.histogram_limit / len(atom.histogram)
        expected = [0] * len(atom.histogram)
        for value in values:
            expected[math.floor(value / width) + len(expected) // 2] += 1
        assert atom.histogram == tuple(expected)
        by_size = sorted(values, key=abs, reverse=True)
        assert [example.coefficient for example in atom.top] == pytest.approx(by_size[:5])
        for part in atom.ranges:
            assert part.count == sum(part.low <= value < part.high for value in values)
            assert all(part.low <= example.coefficient < part.high for example in part.examples)
        assert sum(part.count for part in atom.ranges) == len(values)


def test_examples_are_tokens_that_gave_the_coefficient(dictionary, activations):
    usage = measure(dictionary, activations, batch=64)
    codes = slow_coefficients(dictionary, activations)
    by_prompt = defaultdict(list)
    for code, row in zip(codes, make_table(TOKENS).tolist(), strict=True):
        by_prompt[prompt_of(Source(*row))].append(code)
    for atom in usage.atoms:
        for example in sum(examples_by_place(atom), ()):
            candidates = [code.get(atom.atom, math.inf) for code in by_prompt[example.prompt]]
            assert any(example.coefficient == pytest.approx(value) for value in candidates)


def test_a_range_shows_as_many_examples_as_asked_and_none_twice(dictionary, activations):
    usage = measure(dictionary, activations, batch=64, ranges=3, examples_per_range=4, top=0)
    for atom in usage.atoms:
        assert atom.top == ()
        for part in atom.ranges:
            assert len(part.examples) == min(4, part.count)
            assert len({example.coefficient for example in part.examples}) == len(part.examples)


def test_the_detected_are_the_tokens_with_the_largest_cosines(dictionary, activations):
    usage = measure(dictionary, activations, batch=64, top=3)
    centred = activations - dictionary.bias
    cosines = centred @ dictionary.atoms.T / centred.norm(dim=1, keepdim=True)
    for atom in usage.atoms:
        expected = sorted(enumerate(cosines[:, atom.atom].tolist()), key=lambda found: -found[1])[:3]
        expected = [found for found in expected if found[1] > 0]  # none of atoms that nothing is like
        prompts = [prompt_of(Source(*make_table(TOKENS)[token].tolist())) for token, _ in expected]
        assert [found.prompt for found in atom.detected] == prompts
        assert [found.cosine for found in atom.detected] == pytest.approx([cosine for _, cosine in expected])


def test_the_label_rate_is_a_ratio_of_sums():
    sources = Sources(make_table(3), "fit", tuple(Prompt("", token, "") for token in "013"))
    dictionary = Dictionary(torch.eye(3), sources=sources, k=1)
    meter = UsageMeter(dictionary, top=2)
    meter.update(torch.tensor([[2.0, 1, 0], [3, 1, 1], [0, 3, 1]]), make_table(3))  # detected: 0, 1; 2, 0; 2, 1
    assert meter.compute(prompt_of).label_rate == pytest.approx(1 / 6)
    assert math.isnan(measure(Dictionary(torch.eye(3), k=1), torch.eye(3), batch=2).label_rate)


def test_fvu_is_a_ratio_of_sums_over_all_tokens(dictionary, activations):
    usage = measure(dictionary, activations, batch=64)
    residual = activations - dictionary(activations)
    about_mean = activations - activations.mean(0)
    assert usage.residual_energy == pytest.approx(float(residual.square().sum()))
    assert usage.variance == pytest.approx(float(about_mean.square().sum()))
    assert usage.fvu == pytest.approx(float(residual.square().sum() / about_mean.square().sum()))


def test_unexplained_shares_are_counted_and_returned(dictionary, activations):
    meter = UsageMeter(dictionary)
    shares = torch.cat([meter.update(x, make_table(len(x))) for x in activations.split(64)])
    left = (activations - dictionary(activations)).square().sum(1) / dictionary.centre(activations).square().sum(1)
    assert shares.tolist() == pytest.approx(left.tolist(), abs=1e-5)
    counts = meter.compute(prompt_of).unexplained
    assert sum(counts) == len(activations)
    assert counts == tuple(torch.histc(shares, 20, 0, 1).int().tolist())


# Batches of one token: see test_neuronpedia.py.
@pytest.mark.parametrize("batch", [7, TOKENS])
def test_batches_of_any_size_give_the_same_usage(dictionary, activations, batch):
    whole, cut = measure(dictionary, activations, batch=100), measure(dictionary, activations, batch=batch)
    assert whole.l0_histogram == cut.l0_histogram
    for one, other in zip(whole.atoms, cut.atoms, strict=True):
        assert (one.count, one.histogram, one.histogram_limit) == (other.count, other.histogram, other.histogram_limit)
        assert [(part.low, part.high, part.count) for part in one.ranges] == [
            (part.low, part.high, part.count) for part in other.ranges
        ]
        for kept, again in zip(examples_by_place(one), examples_by_place(other), strict=True):
            assert [example.prompt for example in kept] == [example.prompt for example in again]
            assert [e.coefficient for e in kept] == pytest.approx([e.coefficient for e in again])
        assert [found.prompt for found in one.detected] == [found.prompt for found in other.detected]


def test_codes_take_little_memory(dictionary, activations):
    meter = CodesMeter(N)
    meter.update([used_of(dictionary.encode(activations))], make_table(TOKENS))
    codes = meter.compute()
    tensors = codes.sources, codes.token, codes.activation, codes.counts
    assert sum(tensor.nbytes for tensor in tensors) == 48 * TOKENS + 12 * len(codes.token) + 8 * N


@given(
    entries=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=30),
    count=st.integers(0, 4),
)
def test_the_best_of_groups_are_those_of_a_stable_sort(entries, count):
    group, priority = torch.tensor(entries, dtype=torch.int64).view(-1, 2).T
    best = best_of_groups(group, priority.double(), 5, count)
    for index, row in enumerate(best.tolist()):
        members = [entry for entry, (of, _) in enumerate(entries) if of == index]
        expected = sorted(members, key=lambda entry: -entries[entry][1])[:count]
        assert row == expected + [-1] * (count - len(expected))


def test_a_dictionary_that_explains_nothing_has_usage():
    usage = measure(Dictionary(torch.zeros(0, 3), torch.ones(3), k=2, capacity=4), torch.rand(10, 3), batch=5)
    assert (usage.n_tokens, usage.atoms, usage.l0) == (10, (), 0)


def test_prompts_are_looked_up_only_for_the_examples_kept(dictionary, activations):
    asked = []

    def counted(source: Source) -> Prompt:
        asked.append(source)
        return prompt_of(source)

    meter = UsageMeter(dictionary, ranges=1, examples_per_range=1, top=1)
    meter.update(activations, make_table(TOKENS))
    usage = meter.compute(counted)
    assert len(asked) == len(set(asked)) <= 3 * len(usage.atoms)


def test_a_dictionary_without_sources_has_atoms_without_prompts(dictionary, activations):
    bare = Dictionary(dictionary.atoms, k=K)
    usage = measure(bare, activations, batch=64)
    assert all(atom.source is None and atom.prompt is None for atom in usage.atoms)


def test_no_activations_are_refused(dictionary):
    with pytest.raises(InputError, match="no held-out activations"):
        UsageMeter(dictionary).compute(prompt_of)
    with pytest.raises(InputError, match="at least 1, got 0"):
        UsageMeter(dictionary, ranges=0)


def test_decompose_gives_terms_that_sum_to_the_reconstruction(dictionary, activations):
    x = activations[:20]
    prompts = [prompt_of(Source(*row)) for row in make_table(20).tolist()]
    for row, prompt, got in zip(x, prompts, decompose(dictionary, x, prompts), strict=True):
        assert got.prompt == prompt
        assert len({term.atom for term in got.terms}) == len(got.terms)
        sizes = [abs(term.coefficient) for term in got.terms]
        assert sizes == sorted(sizes, reverse=True)
        x_hat = sum(term.coefficient * dictionary.atoms[term.atom] for term in got.terms) + dictionary.bias
        centred = row - dictionary.bias
        assert (got.norm, got.distance) == pytest.approx((float(row.norm()), float(centred.norm())))
        assert got.unexplained == pytest.approx(float((row - x_hat).square().sum() / centred.square().sum()))
        assert all(term.prompt == dictionary.prompts[term.atom] for term in got.terms)


def test_decompose_of_the_bias_itself_has_no_terms(dictionary):
    (got,) = decompose(dictionary, dictionary.bias[None], [Prompt("", "x", "")])
    assert (got.terms, got.unexplained, got.distance) == ((), 0.0, 0.0)
    assert got.norm == pytest.approx(float(dictionary.bias.norm()))


def test_decompose_needs_one_prompt_per_activation(dictionary, activations):
    with pytest.raises(InputError, match="1 prompts for 2 activations"):
        decompose(dictionary, activations[:2], [Prompt("", "x", "")])
