"""A small model as one would keep it in a worker: two blocks of a transformer, with random weights, on the CPU."""

import numpy as np

LAYERS, WIDTH, HEADS, TOKENS = 2, 256, 4, 16


class Model:
    def __init__(self):
        random = np.random.default_rng(0)

        def weights(*shape):
            return random.standard_normal(shape, dtype=np.float32) / np.sqrt(np.float32(shape[0]))

        self._embedding = weights(1000, WIDTH)
        self._layers = [
            (weights(WIDTH, 3 * WIDTH), weights(WIDTH, WIDTH), weights(WIDTH, 4 * WIDTH), weights(4 * WIDTH, WIDTH))
            for _ in range(LAYERS)
        ]

    def encode(self, numbers):
        """Return a few figures for each of these, whose tokens follow from it."""
        tokens = (np.asarray(numbers)[:, None] * 31 + np.arange(TOKENS)) % len(self._embedding)
        state = self._embedding[tokens]
        for of_attention, out, up, down in self._layers:
            state = state + _attended(_normal(state) @ of_attention) @ out
            state = state + np.maximum(_normal(state) @ up, 0) @ down
        return state.mean(axis=1)[:, :8].tolist()


def _normal(state):
    return (state - state.mean(axis=-1, keepdims=True)) / (state.std(axis=-1, keepdims=True) + 1e-5)


def _attended(projected):
    size, length, _ = projected.shape
    queries, keys, values = projected.reshape(size, length, 3, HEADS, -1).transpose(2, 0, 3, 1, 4)
    scores = queries @ keys.swapaxes(-1, -2) / np.sqrt(np.float32(WIDTH // HEADS))
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    return (shares @ values).transpose(0, 2, 1, 3).reshape(size, length, WIDTH)
