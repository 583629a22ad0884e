"""The llama architecture in JAX: weights as arrays, and one function over them.

Matrices are (in, out) and stacked over layers. Rotation is over neighbouring pairs, which is what
llama.cpp does for files of this architecture.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

Weights = dict[str, jax.Array]
MATRICES = ("wq", "wk", "wv", "wo", "gate", "up", "down")
_PER_LAYER = (*MATRICES, "norm_attention", "norm_ffn")


@dataclass(frozen=True, slots=True)
class Shape:
    """Dimensions of the model; the output shares the embedding's matrix."""

    vocabulary: int
    layers: int = 3
    width: int = 256
    heads: int = 4
    kv_heads: int = 2
    ffn: int = 512
    head: int = 64
    rope_base: float = 500_000.0
    """So large that a third of each head barely turns over the context: those match by content."""
    norm_epsilon: float = 1e-5
    context: int = 2048


def make_weights(shape: Shape, seed: int) -> Weights:
    """Draws the first weights; what writes into the residual stream starts small."""
    keys = iter(jax.random.split(jax.random.key(seed), len(MATRICES) + 1))
    depth = (2 * shape.layers) ** -0.5

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        spread = scale * rows**-0.5
        return spread * jax.random.normal(next(keys), (shape.layers, rows, columns))

    query, kv = shape.heads * shape.head, shape.kv_heads * shape.head
    return {
        "embedding": 0.05 * jax.random.normal(next(keys), (shape.vocabulary, shape.width)),
        "wq": matrix(shape.width, query),
        "wk": matrix(shape.width, kv),
        "wv": matrix(shape.width, kv),
        "wo": matrix(query, shape.width, depth),
        "gate": matrix(shape.width, shape.ffn),
        "up": matrix(shape.width, shape.ffn),
        "down": matrix(shape.ffn, shape.width, depth),
        "norm_attention": jnp.ones((shape.layers, shape.width)),
        "norm_ffn": jnp.ones((shape.layers, shape.width)),
        "norm_output": jnp.ones((shape.width,)),
    }


def read_out(weights: Weights, states: jax.Array) -> jax.Array:
    """Returns what `hidden` says about the next token: a score for each of the vocabulary."""
    return _dot(states, weights["embedding"].T)


def hidden(
    weights: Weights, shape: Shape, tokens: jax.Array, segments: jax.Array, positions: jax.Array
) -> jax.Array:
    """Returns (rows, length, width); tokens see earlier ones of their own segment only."""
    length = tokens.shape[1]
    visible = jnp.tril(jnp.ones((length, length), bool))
    visible = visible & (segments[:, :, None] == segments[:, None, :])
    angles = _angles(shape, positions)

    def layer(stream: jax.Array, own: Weights) -> jax.Array:
        read = _norm(stream, own["norm_attention"], shape)
        stream = stream + _attention(read, own, shape, visible, angles)
        read = _norm(stream, own["norm_ffn"], shape)
        inner = jax.nn.silu(_dot(read, own["gate"])) * _dot(read, own["up"])
        return stream + _dot(inner, own["down"])

    stream = weights["embedding"][tokens]
    for rank in range(shape.layers):
        stream = layer(stream, {name: weights[name][rank] for name in _PER_LAYER})
    return _norm(stream, weights["norm_output"], shape)


def _dot(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _norm(values: jax.Array, scale: jax.Array, shape: Shape) -> jax.Array:
    mean_square = jnp.mean(values * values, -1, keepdims=True)
    return values * jax.lax.rsqrt(mean_square + shape.norm_epsilon) * scale


def _angles(shape: Shape, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    steps = shape.rope_base ** (-jnp.arange(0, shape.head, 2) / shape.head)
    angles = positions[:, :, None, None] * steps
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(values: jax.Array, angles: tuple[jax.Array, jax.Array]) -> jax.Array:
    cosine, sine = angles
    even, odd = values[..., 0::2], values[..., 1::2]
    turned = jnp.stack([even * cosine - odd * sine, even * sine + odd * cosine], -1)
    return turned.reshape(values.shape)


def _attention(
    read: jax.Array,
    own: Weights,
    shape: Shape,
    visible: jax.Array,
    angles: tuple[jax.Array, jax.Array],
) -> jax.Array:
    rows, length, _ = read.shape
    groups = shape.heads // shape.kv_heads
    query = _rotate(_dot(read, own["wq"]).reshape(rows, length, shape.heads, shape.head), angles)
    key = _rotate(_dot(read, own["wk"]).reshape(rows, length, shape.kv_heads, shape.head), angles)
    value = _dot(read, own["wv"]).reshape(rows, length, shape.kv_heads, shape.head)
    query = query.reshape(rows, length, shape.kv_heads, groups, shape.head)
    scores = jnp.einsum("bqkgd,bskd->bkgqs", query, key) * shape.head**-0.5
    scores = jnp.where(visible[:, None, None], scores, -1e9)
    mixed = jnp.einsum("bkgqs,bskd->bqkgd", jax.nn.softmax(scores, -1), value)
    return _dot(mixed.reshape(rows, length, -1), own["wo"])
