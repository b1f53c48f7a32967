"""Texts that a decoder reads after their context: a chat template's prefix, read once and kept."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lec_guard.detect.bundle import TORCH_ONLY
from lec_guard.detect.extractor import Backend, Extractor, Features, Tokens
from lec_guard.detect.pairs import UnreadContextError, check_budget
from lec_guard.detect.turns import Template, Turn
from lec_guard.detect.windows import Window, Windower
from lec_guard.errors import BundleError

if TYPE_CHECKING:
    from lec_guard.detect.past import Prefix


@runtime_checkable
class PrefixBackend(Backend, Protocol):
    """A backend of a decoder that goes on reading after a prefix."""

    max_positions: int | None
    """The longest input the model takes in tokens, prefix and all, or None if it names no limit."""

    def prefix(self, ids: Sequence[int]) -> Prefix:
        """Read a prefix once.

        Args:
            ids: Token ids, at least one.

        Returns:
            What the model's layers keep of it, where the model is.
        """
        ...

    def check_prefix(self) -> None:
        """Check on a short input that reading after a prefix is the same as reading all at once.

        Raises:
            BundleError: If it is not: the model is no causal decoder.
        """
        ...

    def features(self, ids: Tokens, mask: Tokens, prefix: Prefix | None = None) -> Features:
        """Features of one batch, padded on the right.

        Args:
            ids: Token ids, `[batch, tokens]`.
            mask: 1 for a token, 0 for padding, `[batch, tokens]`.
            prefix: What stands before each row; its tokens are not pooled.

        Returns:
            `[batch, width]`.
        """
        ...


class PrefixPairs:
    """Pairs of a decoder: each window of the text is read after the context. Safe to share between threads.

    That is exact: in a decoder no token sees what comes after it, so what the layers keep of the context does not
    depend on the text.

    Args:
        extractor: Reads both.
        template: What stands around them.
        budget: Tokens of a context beyond which it is not read; None reads any length that the model takes.

    Raises:
        BundleError: If the backend can't read after a prefix, the model is no decoder, or the template leaves no
            room for a context.
    """

    needs_features = False

    def __init__(self, extractor: Extractor, template: Template, *, budget: int | None) -> None:
        if not isinstance(extractor.backend, PrefixBackend):
            raise BundleError(f"this bundle's {TORCH_ONLY}, not on {extractor.backend.name}")
        self._backend: PrefixBackend = extractor.backend
        self._backend.check_prefix()
        self._extractor = extractor
        self._budget = budget
        self.width = extractor.backend.width
        self.form: Hashable = ("prefix", template)
        windower = extractor.windower
        self._before, self._between, self._after = windower.template_ids(
            [template.before, template.between, template.after]
        )
        if not self._before + self._between:
            raise BundleError("the template in front of a text has no token")
        self._room: int | None = None
        if self._backend.max_positions is not None:
            taken = len(self._before + self._between + self._after) + windower.spec.size - windower.special
            self._room = self._backend.max_positions - taken
            if self._room < 1:
                raise BundleError(
                    f"template and window have {taken} tokens, and the model reads {self._backend.max_positions}: "
                    "that leaves no room for a context; make the windows smaller"
                )

    def read(self, context: str) -> Prefix:
        """The template up to the text, read with this context; see `PairReader.read`."""
        windower = self._extractor.windower
        check_budget(windower, context, self._budget)
        if self._room is not None and windower.too_long(context, self._room):
            raise UnreadContextError(
                f"the context has more than {self._room} tokens, what the model can read in front of a window"
            )
        # Token by token put together, not as one string: what a user typed can't become part of the template.
        return self._backend.prefix([*self._before, *windower.ids(context), *self._between])

    def features(self, windows: Sequence[Window], features: Features, context: Prefix) -> Features:  # noqa: ARG002
        """See `PairReader.features`; pooled are the text's tokens and those that stand after it."""
        windower = self._extractor.windower
        tokens = [[*windower.text_ids(window), *self._after] for window in windows]
        read = partial(self._backend.features, prefix=context)
        return self._extractor.batched(tokens, read, before=context.tokens)


class TurnExtractor(Extractor):
    """An extractor that reads each window in a turn of a conversation, as the model does that answers it.

    Args:
        windower: Cuts texts.
        backend: Runs the model.
        extractor_id: Hash over everything that fixes the features, whatever the backend.
        turn: What stands around a text.

    Raises:
        BundleError: If the backend can't read after a prefix, or the model is no decoder.
    """

    def __init__(self, windower: Windower, backend: Backend, extractor_id: str, turn: Turn) -> None:
        super().__init__(windower, backend, extractor_id)
        if not isinstance(backend, PrefixBackend):
            raise BundleError(f"this bundle's {TORCH_ONLY}, not on {backend.name}")
        backend.check_prefix()
        before, self._after = windower.template_ids([turn.before, turn.after])
        self._read = partial(backend.features, prefix=backend.prefix(before)) if before else backend.features
        self._taken = len(before) + len(self._after)
        most, size = backend.max_positions, windower.spec.size - windower.special + self._taken
        if most is not None and size > most:
            raise BundleError(
                f"turn and window have {size} tokens, and the model reads {most}; make the windows smaller"
            )

    def features(self, windows: Sequence[Window]) -> Features:
        """The feature vectors of windows; pooled are the text's tokens and those that stand after it."""
        tokens = [[*self.windower.text_ids(window), *self._after] for window in windows]
        return self.batched(tokens, self._read, before=self._taken)
