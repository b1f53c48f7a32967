"""What a tenant's own harmless traffic scores: budgets can be taken from it instead of from the bundle's texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lec_guard.errors import PolicyError
from lec_guard.policy.document import read_file
from lec_guard.step import Stage

_Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class OwnScores(BaseModel):
    """How high a tenant's harmless texts score at a stage.

    Attributes:
        stage: The stage.
        windows: They have so many windows or more, up to the next entry of the same stage.
        texts: How many there were.
        families: Of how many sources.
        rates: Shares of them, the largest first; none is below 3 / `texts`.
        scores: What that share of them exceeds.
        worst: The share of the source with most of them above each score.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    stage: Stage
    windows: Annotated[int, Field(gt=0)]
    texts: Annotated[int, Field(gt=0)]
    families: Annotated[int, Field(gt=0)]
    rates: Annotated[tuple[_Share, ...], Field(min_length=1)]
    scores: tuple[_Share, ...]
    worst: tuple[_Share, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not len(self.rates) == len(self.scores) == len(self.worst):
            raise ValueError("every rate needs its score and its worst source")
        if list(self.rates) != sorted(set(self.rates), reverse=True) or list(self.scores) != sorted(self.scores):
            raise ValueError("rates must fall, and scores rise with it")
        # A little slack, because 3 / texts is no round number.
        if self.rates[-1] * self.texts < 3 - 1e-9:
            raise ValueError(f"{self.texts} texts know of no rate below {3 / self.texts:.2g}")
        return self


class Calibration(BaseModel):
    """A tenant's own scores, as `lec-guard policy calibrate` writes them; no text is among it.

    Attributes:
        format: Version of this layout.
        detector_id: The detector that scored; of another one the scores would say nothing.
        texts: How many texts there were.
        heads: Head -> what its scores were.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    detector_id: str
    texts: int
    heads: Mapping[str, tuple[OwnScores, ...]]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for head, entries in self.heads.items():
            for stage in {entry.stage for entry in entries}:
                bins = [entry.windows for entry in entries if entry.stage == stage]
                if bins[0] != 1 or bins != sorted(set(bins)):
                    raise ValueError(f"{head}: entries of {stage} must start at 1 window and be in order, each once")
        return self


def read_calibration(file: Path, read: Callable[[Path], bytes] = read_file) -> Calibration:
    """Read what `lec-guard policy calibrate` wrote.

    Args:
        file: The file.
        read: Gives its bytes.

    Returns:
        The calibration.

    Raises:
        PolicyError: If it can't be read.
    """
    try:
        return Calibration.model_validate_json(read(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise PolicyError(f"{file}: {where}: {first['msg']}; run lec-guard policy calibrate again") from None
