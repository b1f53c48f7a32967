"""Presidio's recognizers, made to run inside a guard: without the net, within a time, and failing closed.

Used as it comes, Presidio downloads a language model and, with the first mail address, a list of domains; and it passes
over a pattern that takes more than a minute. Here nothing is fetched, and what was not looked for is told.
"""

from __future__ import annotations

import copy
import difflib
import hashlib
import importlib.metadata
import inspect
import json
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import regex
import spacy
import tldextract
from presidio_analyzer import (
    AnalyzerEngine,
    EntityRecognizer,
    PatternRecognizer,
    RecognizerRegistry,
    predefined_recognizers,
)
from presidio_analyzer.nlp_engine import NerModelConfiguration, NlpArtifacts, NlpEngine, NoOpNlpEngine
from presidio_analyzer.predefined_recognizers import EmailRecognizer, PhoneRecognizer, SpacyRecognizer

from lec_guard.detect.quiet import quiet
from lec_guard.errors import DetectorError

NOT_PERSONAL = frozenset({"DATE_TIME", "ORGANIZATION", "URL", "UUID"})
"""What is looked for only where it is asked for: it tells of nobody by itself."""

_NER_LABELS = {
    "PER": "PERSON", "PERSON": "PERSON", "NORP": "NRP", "FAC": "LOCATION", "LOC": "LOCATION", "LOCATION": "LOCATION",
    "GPE": "LOCATION", "ORG": "ORGANIZATION", "ORGANIZATION": "ORGANIZATION", "DATE": "DATE_TIME", "TIME": "DATE_TIME",
}  # fmt: skip
"""Labels of spaCy's models -> Presidio's, as its own configuration has them."""

_NER_SCORE: float = NerModelConfiguration().default_score or 0.0
"""spaCy gives no score; Presidio takes this one."""

_NOT_FOR_NER = (
    "attribute_ruler", "entity_linker", "lemmatizer", "morphologizer", "parser", "senter", "tagger", "textcat",
    "textcat_multilabel", "trainable_lemmatizer",
)  # fmt: skip
"""What a model can do that nobody asks for here."""

_SIZES = ("lg", "md", "sm")
"""Of several models that are installed the first of these is taken, then any other."""

_EXAMPLE = "Ann, ann@example.com, +1 212 555 0123"
_EXAMPLE_S = 60.0

_TOKEN = re.compile(r"\w+|[^\w\s]")


class TooSlowError(Exception):
    """The time for a text is over."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a recognizer found in `[start, end)` of a text."""

    start: int
    end: int
    label: str
    score: float


class Analyzer:
    """Presidio's analyzer over chosen recognizers. Safe to share between threads.

    Args:
        entities: Entity types to look for; None for what Presidio looks for in these languages, but `NOT_PERSONAL`.
        languages: Which languages' recognizers and context words are taken.
        ner: Whether a language model looks for names and places; or the name or folder of the model.
        threshold: What scores less is no finding.
        own: Recognizers of the operator's own, beside Presidio's.

    Attributes:
        labels: The entity types that are looked for.
        version: A hash over all that decides what is found.

    Raises:
        DetectorError: If an entity type is unknown, or a model is missing.
    """

    def __init__(
        self,
        entities: Sequence[str] | None,
        languages: Sequence[str],
        ner: bool | str,
        threshold: float,
        own: Sequence[PatternRecognizer],
    ) -> None:
        _check_languages(languages)
        models = _models(languages, ner)
        chosen = [*_chosen(entities, languages, is_ner=bool(models)), *(copy.copy(one) for one in own)]
        self._language = languages[0]
        self._deadline = threading.local()
        for recognizer in chosen:
            recognizer.supported_language = self._language
            if isinstance(recognizer, PatternRecognizer):
                recognizer.patterns = [self._bounded(one, recognizer) for one in recognizer.patterns]
        self.labels = tuple(sorted({entity for recognizer in chosen for entity in recognizer.supported_entities}))
        self._engine = AnalyzerEngine(
            registry=RecognizerRegistry(recognizers=chosen, supported_languages=[self._language]),
            nlp_engine=_Words(self._language, languages, models),
            default_score_threshold=threshold,
            supported_languages=[self._language],
        )
        self.version = _version(self.labels, threshold, chosen, models)
        # What is read from disk when it is first needed is read here: nobody waits for it, and what is missing is told.
        self.findings(_EXAMPLE, time.thread_time() + _EXAMPLE_S)

    def findings(self, text: str, until: float) -> list[Finding]:
        """What is in a text.

        Args:
            text: A short text: time and memory grow faster than its length.
            until: When to stop, by `time.thread_time`: a machine that is busy with others makes no text a slow one.

        Returns:
            All findings, without the domains of mail addresses; they may overlap.

        Raises:
            TooSlowError: If the time is over.
            DetectorError: If a recognizer fails.
        """
        if not text or text.isspace():
            return []
        self._deadline.at = until
        try:
            _left(until)
            found = self._engine.analyze(text, self._language, list(self.labels))
        except TooSlowError:
            raise
        except Exception as error:  # noqa: BLE001 - its message may hold the text
            raise DetectorError(f"Presidio failed on a text: {type(error).__name__}") from None
        domains = [
            (text.rindex("@", one.start, one.end), one.end)
            for one in found
            if one.entity_type == "EMAIL_ADDRESS" and "@" in text[one.start : one.end]
        ]
        return [
            Finding(one.start, one.end, one.entity_type, float(one.score))
            for one in found
            # A mail address's domain is no address of its own. Nothing else is passed over for what lies around it:
            # a number is not hidden by standing in a mail address or in a URL.
            if one.entity_type != "URL" or not any(at < one.start and one.end <= end for at, end in domains)
        ]

    def _bounded(self, pattern: Any, recognizer: PatternRecognizer) -> Any:
        # A copy: Presidio's patterns belong to their classes, and so to everybody in the process.
        own = copy.copy(pattern)
        flags = recognizer.global_regex_flags
        own.compiled_with_flags = flags
        # What Presidio itself compiles patterns with; `re` knows no time limit.
        own.compiled_regex = _Bounded(regex.compile(pattern.regex, flags), self._deadline)
        return own


class _Bounded:
    """A compiled pattern that searches until the deadline. Presidio would pass over one that is too slow."""

    def __init__(self, compiled: Any, deadline: threading.local) -> None:
        self._compiled = compiled
        self._deadline = deadline

    def finditer(self, text: str, timeout: float) -> Iterator[Any]:  # noqa: ARG002 - Presidio's, which is too long
        try:
            yield from self._compiled.finditer(text, timeout=_left(self._deadline.at))
        except TimeoutError:
            raise TooSlowError from None


def _left(until: float) -> float:
    left = until - time.thread_time()
    if left <= 0:
        raise TooSlowError
    return left


class _Email(EmailRecognizer):  # type: ignore[misc] # Presidio is not looked into
    """Mail addresses, by the list of domains that tldextract brings along instead of one from the net."""

    _domain = tldextract.TLDExtract(cache_dir=None, suffix_list_urls=())

    def validate_result(self, pattern_text: str) -> bool:
        # Presidio asks for the whole address, and so misses those with a slash before the @.
        return bool(self._domain(pattern_text.rpartition("@")[2]).fqdn)


@dataclass(frozen=True, slots=True)
class _Entity:
    """What a language model found, with the names that Presidio reads of it."""

    label_: str
    start_char: int
    end_char: int


class _Words(NlpEngine):  # type: ignore[misc] # Presidio is not looked into
    """What Presidio wants to know of a text: its words, for context, and what language models found in it.

    A language model's own tokens would do, but a word is a word without one, too: patterns are then as sure of
    themselves beside "my phone number is" as they are with it.
    """

    engine_name = "lec_guard"
    is_available = True

    def __init__(self, language: str, languages: Sequence[str], models: Sequence[Any]) -> None:
        self._language = language
        self._stop = frozenset[str]().union(*(spacy.util.get_lang_class(one).Defaults.stop_words for one in languages))
        self._models = models
        # spaCy promises nothing of threads, and a memory zone is one for all of them.
        self._lock = threading.Lock()

    def load(self) -> None:
        """Nothing is left to load."""

    def is_loaded(self) -> bool:
        return True

    def process_text(self, text: str, language: str) -> NlpArtifacts:
        tokens = list(_TOKEN.finditer(text))
        words = [token.group() for token in tokens]
        entities = list(self._entities(text))
        return NlpArtifacts(
            entities=entities,
            tokens=words,
            tokens_indices=[token.start() for token in tokens],
            lemmas=[word.lower() for word in words],
            nlp_engine=self,
            language=language,
            scores=[_NER_SCORE] * len(entities),
        )

    def _entities(self, text: str) -> Iterator[_Entity]:
        for model in self._models:
            # Without a zone spaCy keeps every word that it ever saw.
            with self._lock, model.memory_zone():
                found = [
                    _Entity(_NER_LABELS.get(one.label_, ""), one.start_char, one.end_char) for one in model(text).ents
                ]
            yield from (one for one in found if one.label_)

    def process_batch(self, texts: Iterable[str], language: str, **_: Any) -> Iterator[tuple[str, NlpArtifacts]]:
        for text in texts:
            yield text, self.process_text(text, language)

    def is_stopword(self, word: str, language: str) -> bool:  # noqa: ARG002 - one list for all languages
        return word in self._stop

    def is_punct(self, word: str, language: str) -> bool:  # noqa: ARG002
        return not word[:1].isalnum() and word[:1] != "_"

    def get_supported_entities(self) -> list[str]:
        return sorted(set(_NER_LABELS.values())) if self._models else []

    def get_supported_languages(self) -> list[str]:
        return [self._language]


def _check_languages(languages: Sequence[str]) -> None:
    if not languages:
        raise DetectorError("no language is given; give language='en', or several")
    for one in languages:
        try:
            spacy.util.get_lang_class(one)
        except ImportError:
            raise DetectorError(f"{one!r} is no language that spaCy knows; give its code, for example 'en'") from None


def _models(languages: Sequence[str], ner: bool | str) -> list[Any]:
    """The language models that look for names, loaded."""
    if ner is False:
        return []
    return [_model(name) for name in ([ner] if isinstance(ner, str) else map(_installed, languages))]


def _installed(language: str) -> str:
    """The best model of a language that is installed."""
    found: list[str] = sorted(name for name in spacy.util.get_installed_models() if name.startswith(f"{language}_"))
    if not found:
        name = "en_core_web_sm" if language == "en" else f"{language}_core_news_sm"
        raise DetectorError(f"no spaCy model of the language {language!r} is installed; {_how_to_install(name)}")
    return min(found, key=lambda name: _SIZES.index(name[-2:]) if name[-2:] in _SIZES else len(_SIZES))


def _model(name: str) -> Any:
    # Not Presidio's own way, which downloads what is missing.
    if not spacy.util.is_package(name) and not (Path(name) / "meta.json").is_file():
        raise DetectorError(f"the spaCy model {name!r} is not installed; {_how_to_install(name)}")
    model = spacy.load(name, exclude=_NOT_FOR_NER)
    if not any("doc.ents" in model.get_pipe_meta(part).assigns for part in model.pipe_names):
        raise DetectorError(f"the spaCy model {name!r} finds no names: it has no part such as 'ner'")
    return model


def _how_to_install(name: str) -> str:
    return f"run: python -m spacy download {name} (it has pip install it), or leave ner=False"


def _chosen(entities: Sequence[str] | None, languages: Sequence[str], *, is_ner: bool) -> list[EntityRecognizer]:
    """Recognizers that find some entity types, made for this detector alone."""
    usual = _by_entity(_usual(languages))
    by_ner = set(_NER_LABELS.values()) if is_ner else set[str]()
    wanted = (set(usual) | by_ner) - NOT_PERSONAL if entities is None else set(entities)
    if not wanted:
        raise DetectorError("no entity types are given; give some, or entities=None for the usual ones")
    every = usual if wanted <= set(usual) | by_ner else _by_entity(_every()) | usual
    for entity in sorted(wanted - set(every) - by_ner):
        raise DetectorError(_unknown(entity, [*every, *_NER_LABELS.values()]))
    chosen = [recognizer for entity in sorted(wanted & set(every)) for recognizer in every[entity]]
    if wanted & by_ner:
        chosen.append(SpacyRecognizer(supported_entities=sorted(wanted & by_ner)))
    return chosen


def _unknown(entity: str, known: Iterable[str]) -> str:
    if entity in _NER_LABELS.values():
        return f"{entity} is found by a language model only; give ner=True"
    near = difflib.get_close_matches(entity.upper(), known, 1, 0.5)
    return f"no recognizer finds {entity!r}" + (f"; did you mean {near[0]}?" if near else "")


def _usual(languages: Sequence[str]) -> list[EntityRecognizer]:
    """What Presidio takes for some languages by itself."""
    nothing = NoOpNlpEngine([{"lang_code": one, "model_name": ""} for one in languages])
    nothing.load()
    registry = RecognizerRegistry(supported_languages=list(languages))
    with quiet("presidio-analyzer"):  # It warns of each recognizer of another language.
        registry.load_predefined_recognizers(languages=list(languages), nlp_engine=nothing)
    return list(registry.recognizers)


def _every() -> list[EntityRecognizer]:
    """All that Presidio brings along and that reads patterns, for whatever country."""
    classes = (getattr(predefined_recognizers, name) for name in predefined_recognizers.__all__)
    return [one() for one in classes if inspect.isclass(one) and issubclass(one, PatternRecognizer)]


def _by_entity(recognizers: Iterable[EntityRecognizer]) -> dict[str, list[EntityRecognizer]]:
    """Entity type -> who finds it. What differs by language alone becomes one that has the words of all of them."""
    kinds: dict[type, EntityRecognizer] = {}
    for one in recognizers:
        if isinstance(one, EmailRecognizer):
            one = _Email(context=one.context)
        if isinstance(one, PatternRecognizer | PhoneRecognizer):
            first = kinds.setdefault(type(one), one)
            first.context = list(dict.fromkeys([*(first.context or ()), *(one.context or ())]))
    found: dict[str, list[EntityRecognizer]] = {}
    for one in kinds.values():
        for entity in one.supported_entities:
            found.setdefault(entity, []).append(one)
    return found


def _version(
    labels: Sequence[str], threshold: float, recognizers: Sequence[EntityRecognizer], models: Sequence[Any]
) -> str:
    packages = ["presidio-analyzer", "phonenumbers", "tldextract", *(["spacy"] if models else [])]
    content = {
        "labels": labels,
        "threshold": threshold,
        "recognizers": sorted(json.dumps(_content(one), sort_keys=True) for one in recognizers),
        "models": [f"{model.meta['lang']}_{model.meta['name']}-{model.meta['version']}" for model in models],
        "packages": {name: importlib.metadata.version(name) for name in packages},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _content(recognizer: EntityRecognizer) -> Mapping[str, Any]:
    kind = type(recognizer)
    own: dict[str, Any] = {"kind": f"{kind.__module__}.{kind.__qualname__}", "context": recognizer.context or []}
    if isinstance(recognizer, PatternRecognizer):
        own["patterns"] = [[one.regex, one.score] for one in recognizer.patterns]
        own["flags"] = int(recognizer.global_regex_flags)
    return own
