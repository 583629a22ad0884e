"""Muon for the matrices inside the layers, Adam for embedding and norms.

Source: Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024):
momentum whose singular values are pushed towards one by a Newton-Schulz iteration. Our matrices
are stacked over layers, so the iteration runs over the stack at once.
"""

import jax
import jax.numpy as jnp
import optax

from model import MATRICES, Weights

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ROUNDS = 5
_WEIGHT_DECAY = 0.1
_SCORE_DECAY = 0.2
_SCORES = ("wq", "wk")
"""With less decay and at the full rate their products grow until attention can't learn any more."""


def make_optimizer(
    schedule: optax.Schedule, *, matrix_rate: float, other_rate: float
) -> optax.GradientTransformation:
    """Returns the optimizer; `schedule` is a factor between 0 and 1 on both rates."""

    def muon(rate: float, decay: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.trace(decay=0.95, nesterov=True),
            optax.stateless(lambda updates, _: jax.tree.map(_orthogonal, updates)),
            optax.add_decayed_weights(decay),
            optax.scale_by_learning_rate(lambda step: rate * schedule(step)),
        )

    others = optax.chain(
        optax.scale_by_adam(b1=0.9, b2=0.98),
        optax.scale_by_learning_rate(lambda step: other_rate * schedule(step)),
    )
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.multi_transform(
            {
                "matrix": muon(matrix_rate, _WEIGHT_DECAY),
                "score": muon(matrix_rate / 2, _SCORE_DECAY),
                "other": others,
            },
            _labels,
        ),
    )


def _labels(weights: Weights) -> dict[str, str]:
    kinds = dict.fromkeys(MATRICES, "matrix") | dict.fromkeys(_SCORES, "score")
    return {name: kinds.get(name, "other") for name in weights}


def _orthogonal(update: jax.Array) -> jax.Array:
    """Replaces each matrix of the stack by one with singular values of about one."""
    rows, columns = update.shape[1:]
    wide = jnp.swapaxes(update, 1, 2) if rows > columns else update
    wide = wide / (jnp.linalg.norm(wide, axis=(1, 2), keepdims=True) + 1e-7)
    first, second, third = _COEFFICIENTS
    for _ in range(_ROUNDS):
        square = wide @ jnp.swapaxes(wide, 1, 2)
        wide = first * wide + (second * square + third * square @ square) @ wide
    turned = jnp.swapaxes(wide, 1, 2) if rows > columns else wide
    return turned * max(1.0, columns / rows) ** 0.5
