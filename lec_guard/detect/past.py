"""What the layers of a decoder keep of a prefix, so that texts are read after it without reading it again."""

from __future__ import annotations

import copy

from transformers import Cache, DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class Prefix:
    """The keys and values of a prefix. No call changes them, so threads may share one.

    Args:
        cache: What the model filled while it read the prefix, one row.
        tokens: Length of the prefix.

    Attributes:
        tokens: Length of the prefix; a layer with a sliding window keeps the end of it alone.
        nbytes: Bytes that keeping it takes.

    Raises:
        TypeError: If a layer keeps more than keys and values, and so may write into what it keeps.
    """

    def __init__(self, cache: Cache, tokens: int) -> None:
        self.tokens = tokens
        self.nbytes = 0
        self._layers: list[DynamicLayer] = []
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer) or type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
                raise TypeError(f"a layer keeps a {type(layer).__name__}")
            if layer.keys is not None and layer.values is not None:
                # What a sliding window keeps is a view, which would hold on to the whole prefix.
                layer.keys, layer.values = layer.keys.clone(), layer.values.clone()
                self.nbytes += layer.keys.nbytes + layer.values.nbytes
            self._layers.append(layer)

    def before(self, rows: int) -> Cache:
        """A cache with the prefix in front of each row, for one pass.

        Args:
            rows: How many rows the batch has.

        Returns:
            A cache of the pass's own. Its tensors are views of the kept ones: a layer that is given more tokens
            makes new tensors and writes into none.
        """
        own = [copy.copy(layer) for layer in self._layers]
        for layer in own:
            if layer.keys is not None and layer.values is not None:
                layer.keys = layer.keys.expand(rows, -1, -1, -1)
                layer.values = layer.values.expand(rows, -1, -1, -1)
        cache = DynamicCache()
        cache.layers = [*own]
        return cache
