"""What a detector has to beat: trivial baselines, other ways of reading the same model, and other people's models.

All have one interface. What is fitted is fitted on the rows that are given, never on those that are measured. A text
with soft targets counts as one of each class, by its share.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tokenizers import Tokenizer

from lec_guard.detect.backends.torch import TorchBackend
from lec_guard.detect.extractor import Block, Extractor, batches
from lec_guard.detect.prune import load_pruned
from lec_guard.detect.windows import WindowSpec
from lec_guard.errors import BundleError, DetectorError, UnsupportedValueError
from lec_guard.train.fit import Columns, Floats, Ints, fit_windows, text_logits

Contexts = Sequence[str | None]
Judge = Callable[[str, str | None], float]
"""Text and context -> probability of harm."""

BENIGN_NAMES: Final = frozenset(
    {"benign", "safe", "legit", "legitimate", "harmless", "clean", "normal", "ok", "no_injection", "not_injection"}
)
"""What other people's models call what is harmless, in lower case."""

_UNLIMITED = 512
"""Tokens of a whole text, where a model names no limit: what most encoders of peers read."""
_TEXTS = 256
"""That are read together."""
_MANY = 200
"""Fitting texts from which a word has to stand in two of them."""


class BaselineError(UnsupportedValueError):
    """A baseline has nothing to go by in this data; a report says so in the place of its figures."""


class Baseline(Protocol):
    """Something simple to hold a detector against."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:
        """Fit, forgetting what was fitted before.

        Args:
            texts: The texts.
            contexts: What each is judged against; None where unknown.
            targets: `[texts, classes]`, the benign class first; rows sum to 1.

        Raises:
            BaselineError: If these rows give it nothing to go by.
        """
        ...

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:
        """Probability that each text is harmful.

        Args:
            texts: The texts.
            contexts: What each is judged against; None where unknown.

        Returns:
            `[texts]`, in 0..1.

        Raises:
            BaselineError: If these rows give it nothing to go by.
        """
        ...


class Majority:
    """Every text is as likely harmful as fitting texts were."""

    name = "majority"
    _share = 0.5

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:  # noqa: ARG002
        """See `Baseline`."""
        self._share = float(1 - targets[:, 0].mean())

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:  # noqa: ARG002
        """See `Baseline`."""
        return np.full(len(texts), self._share, np.float32)


class LengthOnly:
    """How many characters a text has: logistic regression on their logarithm and its square."""

    name = "length only"

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:  # noqa: ARG002
        """See `Baseline`."""
        rows, classes, weights = _rows(targets)
        self._model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        self._model.fit(_lengths(texts)[rows], classes, logisticregression__sample_weight=weights)

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:  # noqa: ARG002
        """See `Baseline`."""
        return _harm(self._model, _lengths(texts))


class Words:
    """TF-IDF of single words and pairs, and logistic regression.

    Args:
        of: What is read, by texts and contexts.
        name: What reports call it.
    """

    def __init__(self, of: Callable[[Sequence[str], Contexts], Sequence[str]], name: str) -> None:
        self.name = name
        self._of = of

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:
        """See `Baseline`."""
        rows, classes, weights = _rows(targets)
        self._vectors = TfidfVectorizer(
            ngram_range=(1, 2), sublinear_tf=True, min_df=2 if len(texts) >= _MANY else 1, max_features=200_000
        )
        try:
            found = self._vectors.fit_transform(self._of(texts, contexts))
        except ValueError as error:  # no word at all, or none that stands twice
            raise BaselineError(f"{self.name}: there is no word to go by: {error}") from error
        self._model = LogisticRegression(C=10.0, max_iter=300).fit(found[rows], classes, sample_weight=weights)

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:
        """See `Baseline`."""
        return _harm(self._model, self._vectors.transform(self._of(texts, contexts)))


def words() -> Words:
    """The text's words.

    Returns:
        The baseline.
    """
    return Words(lambda texts, _: texts, "TF-IDF + logistic regression")


def context_only() -> Words:
    """The context's words, and nothing of the text: what it finds, the data gives away.

    Returns:
        The baseline; where no text has a context it has nothing to go by.
    """
    return Words(_contexts, "context only")


def _contexts(_: Sequence[str], contexts: Contexts) -> Sequence[str]:
    if not any(contexts):
        raise BaselineError("context only: no text has a context")
    return [context or "" for context in contexts]


class WholeTexts:
    """Reads texts whole, mean-pooled, cut off where the model's input ends: as peers do. Reads a text once.

    Args:
        folder: A folder with a Hugging Face model and its `tokenizer.json`.
        layers: After which layers, 0 for the embeddings; None stands for the last.

    Raises:
        BundleError: If the folder lacks a file.
        DetectorError: If the model can't be cut.
    """

    def __init__(self, folder: Path, layers: Sequence[int | None]) -> None:
        last = last_layer(folder)
        self._layers = sorted({last if layer is None else layer for layer in layers})
        self._last = last
        model = load_pruned(folder, self._layers[-1])
        self._width, self._pad_id = model.width, model.pad_id
        # A limit that was never tried is often a little less than the config says.
        most = model.max_positions or _UNLIMITED
        self._backend = TorchBackend(model, [Block(layer, "mean") for layer in self._layers])
        self._tokenizer = _tokenizer(folder, most if model.takes_all else min(most, _UNLIMITED))
        self._known: dict[str, Floats] = {}

    def features(self, texts: Sequence[str], layer: int | None) -> Floats:
        """The states of a layer, averaged over a text's tokens.

        Args:
            texts: The texts.
            layer: One of the layers that were asked for.

        Returns:
            `[texts, width]`; zeros for a text without a token.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        tokens = _encoded(self._tokenizer, new)
        for rows, ids, mask in batches([own or [self._pad_id] for own in tokens], self._pad_id):
            for row, found in zip(rows, self._backend.features(ids, mask), strict=True):
                self._known[new[row]] = found if tokens[row] else np.zeros_like(found)
        at = self._layers.index(self._last if layer is None else layer) * self._width
        out = np.zeros((len(texts), self._width), np.float32)
        for row, text in enumerate(texts):
            out[row] = self._known[text][at : at + self._width]
        return out


class NearestTexts:
    """The fitting texts whose embeddings are most similar: what products with a similarity check do.

    The score is the mean over the nearest, weighted by their cosine.

    Args:
        reader: Reads texts whole; embeddings are the last layer's.
        k: How many are the nearest.
    """

    def __init__(self, reader: WholeTexts, *, k: int = 5) -> None:
        self.name = f"{k} nearest texts (similarity check)"
        self._reader, self._k = reader, k

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:  # noqa: ARG002
        """See `Baseline`."""
        self._harm = np.asarray(1 - targets[:, 0], np.float64)
        nearest = NearestNeighbors(n_neighbors=min(self._k, len(texts)), metric="cosine", algorithm="brute")
        self._nearest = nearest.fit(self._reader.features(texts, None))

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:  # noqa: ARG002
        """See `Baseline`."""
        distances, found = self._nearest.kneighbors(self._reader.features(texts, None))
        # 1 for the same direction, 0 for the opposite; a little more, so that weights are never all zero.
        weights = np.maximum(1.0 - distances / 2, 0.0) + 1e-6
        return _unit((weights * self._harm[found]).sum(axis=1) / weights.sum(axis=1))


class WholeText:
    """The head of LEC over the whole text instead of its windows, at the layer that was chosen.

    Args:
        reader: Reads texts whole.
        layer: The layer.
        c: Inverse strength of the L2 penalty on standardised features.
    """

    def __init__(self, reader: WholeTexts, layer: int, *, c: float) -> None:
        self.name = f"whole text (layer {layer})"
        self._reader, self._layer, self._c = reader, layer, c

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:  # noqa: ARG002
        """See `Baseline`."""
        own = np.arange(len(texts))
        self._columns = _regression(self._reader.features(texts, self._layer), own, targets, self._c)

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:  # noqa: ARG002
        """See `Baseline`."""
        return _unit(_sigmoid(self._columns.logits(self._reader.features(texts, self._layer))[:, 0]))


class FinalLayer:
    """The head of LEC over the same windows, at the last layer, mean-pooled: what most classifiers read.

    Args:
        folder: A folder with a Hugging Face model and its `tokenizer.json`.
        window: How texts are cut.
        c: Inverse strength of the L2 penalty on standardised features.

    Raises:
        BundleError: If the folder lacks a file.
        DetectorError: If the model can't be cut.
    """

    def __init__(self, folder: Path, window: WindowSpec, *, c: float) -> None:
        layer = last_layer(folder)
        self.name = f"final layer ({layer})"
        self._extractor = Extractor.load(folder, blocks=[Block(layer, "mean")], window=window)
        self._c = c
        self._known: dict[str, npt.NDArray[np.float16]] = {}

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:  # noqa: ARG002
        """See `Baseline`."""
        features, owner = self._features(texts)
        self._columns = _regression(features, owner, targets, self._c)

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:  # noqa: ARG002
        """See `Baseline`."""
        features, owner = self._features(texts)
        logits = text_logits(self._columns.logits(features)[:, 0], owner, len(texts), 1.0)
        return _unit(_sigmoid(logits))

    def _features(self, texts: Sequence[str]) -> tuple[Floats, Ints]:
        """Of every window: `[windows, width]`, and the text of each."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(new), _TEXTS):
            some = new[start : start + _TEXTS]
            windows = [list(self._extractor.windower.windows(text, as_meant=False)) for text in some]
            # Half precision, as features are kept elsewhere: a long text has many windows.
            found = self._extractor.features([window for own in windows for window in own]).astype(np.float16)
            ends = np.cumsum([len(own) for own in windows])
            self._known |= zip(some, np.split(found, ends[:-1]), strict=True)
        parts = [self._known[text] for text in texts]
        owner = np.repeat(np.arange(len(texts)), [len(part) for part in parts])
        return np.concatenate(parts).astype(np.float32), owner


class OwnClassifier:
    """A model with a classification head of its own, as it comes; nothing is fitted.

    Only safetensors are read and no code comes from the folder.

    Args:
        folder: A folder with a Hugging Face model for sequence classification and its `tokenizer.json`.
        benign: The label of what is harmless; None: the one whose name says so.
        most: Tokens of a text that are read at most; None: what the model takes, but no more than 512.
        pairs: Whether it was made to read a text behind its context, as a pair; else contexts are not read.

    Raises:
        BundleError: If the folder lacks a file or the head, or it can't be told which label is benign.
    """

    def __init__(
        self, folder: Path, *, benign: str | None = None, most: int | None = None, pairs: bool = False
    ) -> None:
        # Imported here: only this baseline needs all of transformers.
        from transformers import AutoModelForSequenceClassification

        from lec_guard.detect.architectures import loading

        self.name = f"own classifier ({folder.name})"
        try:
            with loading():
                model, info = AutoModelForSequenceClassification.from_pretrained(
                    str(folder),
                    local_files_only=True,
                    trust_remote_code=False,
                    use_safetensors=True,
                    output_loading_info=True,
                )
        except (OSError, ValueError) as error:
            raise BundleError(f"{folder}: not a model for sequence classification: {error}") from error
        if info["missing_keys"]:
            names = ", ".join(sorted(info["missing_keys"])[:3])
            raise BundleError(f"{folder}: has no classification head that was trained: {names} are missing")
        if model.config.problem_type not in (None, "single_label_classification") or model.config.num_labels < 2:
            raise BundleError(
                f"{folder}: its labels are not probabilities that sum to one, so none of them is 'benign'"
            )
        self._benign = _benign_label(folder, model.config.id2label, benign)
        self._model = model.float().eval()
        limit = getattr(model.config, "max_position_embeddings", None) or _UNLIMITED
        self._pad_id = model.config.pad_token_id or 0
        self._tokenizer = _tokenizer(folder, most or min(limit, _UNLIMITED))
        self._pairs = pairs

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:
        """Nothing: it comes fitted."""

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:
        """See `Baseline`."""
        out = np.zeros(len(texts), np.float32)
        found = _encoded(self._tokenizer, texts, contexts if self._pairs else [None] * len(texts))
        tokens = [own or [self._pad_id] for own in found]
        for rows, ids, mask in batches(tokens, self._pad_id):
            with torch.inference_mode():
                logits = self._model(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits
            out[rows] = _unit(1 - logits.double().softmax(dim=1)[:, self._benign].numpy())
        return out


class LlmJudge:
    """A language model that is asked about each text; nothing is fitted.

    Args:
        judge: Text and context -> probability of harm.
        name: What reports call it.
    """

    def __init__(self, judge: Judge, name: str = "LLM judge") -> None:
        self.name = name
        self._judge = judge

    def fit(self, texts: Sequence[str], contexts: Contexts, targets: Floats) -> None:
        """Nothing: it comes fitted."""

    def scores(self, texts: Sequence[str], contexts: Contexts) -> Floats:
        """See `Baseline`; a judge that fails or says what is no probability is an error."""
        found: list[float] = []
        for text, context in zip(texts, contexts, strict=True):
            try:
                score = float(self._judge(text, context))
            except Exception as error:  # what a judge raises is its own
                raise DetectorError(f"{self.name}: failed at text {len(found)}: {error}") from error
            if not 0.0 <= score <= 1.0:
                raise DetectorError(f"{self.name}: gave {score} for text {len(found)}; give a probability, in 0..1")
            found.append(score)
        return np.array(found, np.float32)


def text_baselines() -> tuple[Baseline, ...]:
    """The baselines that need no model.

    Returns:
        Majority, length only, context only, and words.
    """
    return Majority(), LengthOnly(), context_only(), words()


def model_baselines(folder: Path, *, layer: int, window: WindowSpec, c: float = 0.02) -> tuple[Baseline, ...]:
    """The baselines that read a detector's model in another way.

    Args:
        folder: A folder with a Hugging Face model and its `tokenizer.json`.
        layer: The layer that the detector reads.
        window: How it cuts texts.
        c: Inverse strength of the L2 penalty of its heads.

    Returns:
        Similarity check, final layer, and whole text.

    Raises:
        BundleError: If the folder lacks a file.
        DetectorError: If the model can't be cut.
    """
    reader = WholeTexts(folder, [layer, None])
    return NearestTexts(reader), FinalLayer(folder, window, c=c), WholeText(reader, layer, c=c)


def last_layer(folder: Path) -> int:
    """How many layers a model has.

    Args:
        folder: A folder with a Hugging Face model.

    Returns:
        The number of its last layer.
    """
    return load_pruned(folder, 0).full_layers


def _regression(features: Floats, owner: Ints, targets: Floats, c: float) -> Columns:
    rows, classes, weights = _rows(np.stack([targets[:, 0], 1 - targets[:, 0]], axis=1))
    if len(rows) == len(targets):
        return fit_windows(features, owner, classes, weights, c=c)
    # A text with soft targets stands there once for each class.
    counts = np.bincount(owner, minlength=len(targets))
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    windows = np.concatenate([np.arange(starts[row], starts[row] + counts[row]) for row in rows])
    return fit_windows(features[windows], np.repeat(np.arange(len(rows)), counts[rows]), classes, weights, c=c)


def _rows(targets: Floats) -> tuple[Ints, Ints, Floats]:
    """Rows, classes and weights that stand for targets; a row with soft targets comes once for each class."""
    rows, classes = np.nonzero(targets > 0)
    if len(np.unique(classes)) < 2:
        raise BaselineError("all texts to fit on are of one class")
    return rows, classes, np.asarray(targets[rows, classes], np.float32)


def _lengths(texts: Sequence[str]) -> Floats:
    logs = np.log1p([len(text) for text in texts]).astype(np.float32)
    return np.stack([logs, logs**2], axis=1)


def _harm(model: Any, features: Any) -> Floats:
    """Of a fitted scikit-learn classifier; a class that it has never seen has no column."""
    benign = np.flatnonzero(np.asarray(model.classes_) == 0)
    if not len(benign):
        return np.ones(features.shape[0], np.float32)
    return _unit(1 - model.predict_proba(features)[:, benign[0]])


def _sigmoid(logits: Floats) -> npt.NDArray[np.float64]:
    # By tanh, because exp overflows for large negative logits.
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits.astype(np.float64))))


def _unit(scores: npt.NDArray[np.float64]) -> Floats:
    return np.asarray(np.clip(scores, 0.0, 1.0), np.float32)


def _tokenizer(folder: Path, most: int) -> Tokenizer:
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BundleError(
            f"{path}: can't be read: {error.strerror}; save the model's fast tokenizer beside it"
        ) from None
    except Exception as error:
        raise BundleError(f"{path}: not a tokenizer that can be read: {error}") from error
    tokenizer.no_padding()
    tokenizer.enable_truncation(most)
    # A special token that somebody typed is text.
    tokenizer.encode_special_tokens = True
    return tokenizer


def _encoded(tokenizer: Tokenizer, texts: Sequence[str], contexts: Contexts | None = None) -> list[list[int]]:
    # Half of a surrogate pair is a Python string, but none that can be encoded.
    readable = [text.encode("utf-8", "replace").decode() for text in texts]
    pairs = [
        text if context is None else (context.encode("utf-8", "replace").decode(), text)
        for text, context in zip(readable, contexts or [None] * len(texts), strict=True)
    ]
    return [encoding.ids for encoding in tokenizer.encode_batch(pairs)]


def _benign_label(folder: Path, labels: dict[int, str], given: str | None) -> int:
    names = {str(label).lower().replace(" ", "_").replace("-", "_"): int(at) for at, label in labels.items()}
    if given is not None:
        wanted = given.lower().replace(" ", "_").replace("-", "_")
        if wanted not in names:
            raise BundleError(
                f"{folder}: has no label {given!r}; its labels are {', '.join(map(str, labels.values()))}"
            )
        return names[wanted]
    found = [at for name, at in names.items() if name in BENIGN_NAMES]
    if len(found) != 1:
        raise BundleError(
            f"{folder}: its labels are {', '.join(map(str, labels.values()))}; say which of them is the benign one"
        )
    return found[0]
