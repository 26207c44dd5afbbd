"""Maps from an MLP's input to its output: affine, by codes of its input, and SAELens's TopK transcoder.

Every function takes training inputs x (n, d) and outputs y (n, d), and returns the parameters of a map in closed form,
but for the transcoder, which is trained. Ridges are chosen on rows that no dictionary was grown on.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float
from sae_lens import Transcoder, TranscoderConfig
from sae_lens.saes.topk_sae import TopK
from scipy.sparse import csr_array
from torch import Tensor

from itda_lightning.pursuit import SparseCode

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  # shares of the features' mean variance
# The rate of ``benchmarks/comparison`` for so few activations.
RATE, DECAY = 3e-3, 0.2
Features = Any  # (n, d): a tensor, or a csr_array of codes


class Linear:
    """The map ``features @ weight + intercept``, with the ridge that it was chosen with."""

    def __init__(self, weight: Float[Tensor, "d d_out"], intercept: Float[Tensor, " d_out"], ridge: float) -> None:
        self.weight, self.intercept, self.ridge = weight, intercept, ridge

    def __call__(self, features: Features) -> Float[Tensor, "n d_out"]:
        """Return the outputs in float64."""
        return _product(features, self.weight) + self.intercept

    def of_rank(self, rank: int, features: Features) -> "Linear":
        """Return the map of this rank that is nearest to this one on the features (reduced-rank regression)."""
        predicted = self(features)
        directions = torch.linalg.eigh(torch.cov(predicted.T))[1][:, -rank:]
        mean = predicted.mean(0)
        project = directions @ directions.T
        return Linear(self.weight @ project, (self.intercept - mean) @ project + mean, self.ridge)


def ridge_regression(features: Features, y: Float[Tensor, "n d_out"], held: Bool[Tensor, " n"]) -> Linear:
    """Regress y on features by ridge regression with an intercept.

    The ridge is the one of ``RIDGES`` with the smallest error on the rows ``held``; the weights are those of all rows.
    """
    whole = _Moments(features, y)
    some = _Moments(features[~held.numpy()], y[~held])
    tested, expected = features[held.numpy()], y[held].double()
    errors = {ridge: float((some.solve(ridge)(tested) - expected).square().sum()) for ridge in RIDGES}
    return whole.solve(min(errors, key=lambda ridge: errors[ridge]))


class _Moments:
    """Means and products of features and outputs, centred."""

    def __init__(self, features: Features, y: Float[Tensor, "n d_out"]) -> None:
        n, y = features.shape[0], y.double()
        features = features.double() if isinstance(features, Tensor) else features
        self.mean, self.mean_y = torch.as_tensor(features.sum(0)) / n, y.mean(0)
        square = features.T @ features
        square = square if isinstance(square, Tensor) else torch.from_numpy(square.toarray())
        self.square = square - n * torch.outer(self.mean, self.mean)
        product = features.T @ (y if isinstance(features, Tensor) else y.numpy())
        self.product = torch.as_tensor(product) - n * torch.outer(self.mean, self.mean_y)

    def solve(self, ridge: float) -> Linear:
        left = self.square.clone()
        left.diagonal().add_(ridge * float(left.diagonal().mean()))
        weight = torch.cholesky_solve(self.product, torch.linalg.cholesky(left))
        return Linear(weight, self.mean_y - self.mean @ weight, ridge)


def sparse(code: SparseCode, n: int) -> csr_array:
    """Return codes over n atoms as a sparse matrix."""
    used = code.support >= 0
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), used.sum(1).cumsum(0)])
    entries = code.coefficients[used].double().numpy(), code.support[used].numpy(), starts.numpy()
    return csr_array(entries, shape=(len(code.support), n))


def _product(features: Features, weight: Float[Tensor, "d d_out"]) -> Float[Tensor, "n d_out"]:
    if isinstance(features, Tensor):
        return features.double() @ weight
    return torch.from_numpy(features @ weight.numpy())


class TopKTranscoder(Transcoder):
    """SAELens's transcoder with its TopK activation."""

    k = 32

    def get_activation_fn(self) -> TopK:
        """Return the activation: the k largest that are positive."""
        return TopK(self.k)


def train_transcoder(
    x: Float[Tensor, "n d"], y: Float[Tensor, "n d_out"], n_latents: int, passes: int, batch_size: int, seed: int = 0
) -> TopKTranscoder:
    """Train SAELens's transcoder on x and y by Adam, since SAELens has no trainer for it.

    Inputs are centred and scaled to a mean norm of sqrt(d), outputs likewise; both scales are folded into the weights.
    The decoder starts at zero, as in EleutherAI's sparsify, so latents begin by what helps; the rate falls to 0 in the
    last fifth. There is no loss that revives dead latents.
    """
    config = TranscoderConfig(d_in=x.shape[1], d_out=y.shape[1], d_sae=n_latents, apply_b_dec_to_input=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transcoder = TopKTranscoder(config)
    means, scales = (x.mean(0), y.mean(0)), []
    for of_side, mean in zip((x, y), means, strict=True):
        scales.append(of_side.shape[1] ** 0.5 / float((of_side - mean).norm(dim=1).mean()))
    with torch.no_grad():
        transcoder.W_dec.zero_()
        transcoder.W_enc.copy_(torch.nn.functional.normalize(transcoder.W_enc, dim=0))
    steps = passes * len(x) // batch_size
    optimizer = torch.optim.Adam(transcoder.parameters(), RATE)
    order = torch.cat([torch.randperm(len(x), generator=generator) for _ in range(passes)])
    for step, rows in enumerate(order[: steps * batch_size].split(batch_size)):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (1 - step / steps) / DECAY)
        error = transcoder((x[rows] - means[0]) * scales[0]) - (y[rows] - means[1]) * scales[1]
        optimizer.zero_grad()
        error.square().sum(1).mean().backward()
        optimizer.step()
    with torch.no_grad():
        transcoder.W_enc.mul_(scales[0])
        transcoder.b_enc.sub_(means[0] @ transcoder.W_enc)
        transcoder.W_dec.div_(scales[1])
        transcoder.b_dec.div_(scales[1]).add_(means[1])
    return transcoder
