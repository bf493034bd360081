"""The base of every recipe section: frozen, and an unknown key is an error."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0)]
Tokens = Annotated[int, Field(gt=0, description="tokens")]


class Section(BaseModel):
    """One section of a recipe."""

    model_config = ConfigDict(frozen=True, extra="forbid")
