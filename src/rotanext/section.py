"""What a section of the configuration is made of: a strict base class and the types of its values.

Every part that a recipe configures has its own section, beside the part; `config/` composes them.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# Strict: `true` is no number and "3" no count; a whole number may stand for a float.
Fraction = Annotated[float, Field(ge=0, le=1, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
NotNegative = Annotated[float, Field(ge=0, strict=True)]
Count = Annotated[int, Field(ge=1, le=10**9, strict=True)]
Natural = Annotated[int, Field(ge=0, le=10**9, strict=True)]
Switch = Annotated[bool, Field(strict=True)]


class Section(BaseModel):
    """Frozen values without defaults; an unknown key, NaN or infinity is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
