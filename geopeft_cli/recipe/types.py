"""The words of recipes: number and text types with their ranges, and the base class of every section."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError


class Section(BaseModel):
    """A mapping of the recipe in which only the declared keys may appear."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def mistake(key: str, text: str) -> PydanticCustomError:
    """What a validator raises about the value of ``key``, a dotted path below it; ``text`` follows the key's name."""
    return PydanticCustomError("recipe", "{text}", {"key": key, "text": text})


def _number_from_text(value: Any) -> Any:
    """YAML 1.1 reads ``1e-3`` as text: a text that spells a number is that number."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _spelled(pattern: str, words: str) -> AfterValidator:
    """A text that matches ``pattern``, which ``words`` explain."""

    def check(text: str) -> str:
        if re.fullmatch(pattern, text) is None:
            raise mistake("", f"must be {words}, is {text!r}")
        return text

    return AfterValidator(check)


Switch = Annotated[bool, Field(strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
PositiveCount = Annotated[int, Field(gt=0, strict=True)]
Number = Annotated[float, BeforeValidator(_number_from_text), Field(strict=True, allow_inf_nan=False)]
PositiveNumber = Annotated[Number, Field(gt=0)]
NonNegativeNumber = Annotated[Number, Field(ge=0)]
Fraction = Annotated[Number, Field(ge=0, lt=1)]

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, _spelled(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-' without spaces")]
Device = Annotated[str, _spelled(r"auto|cpu|mps|cuda(:\d+)?", "auto, cpu, cuda, cuda:NUMBER or mps")]
Sha256 = Annotated[str, AfterValidator(str.lower), _spelled(r"[0-9a-f]{64}", "64 hexadecimal digits")]
