"""The software that jobs run in: one file in envs/ for each environment, and whether this machine has it."""

import tomllib
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from pydantic import BaseModel, ConfigDict, Field

from nano3.errors import UserError

DIRECTORY = Path(__file__).parents[2] / "envs"


class Software(BaseModel):
    """One environment: an image, and the versions that the project was written against."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    purpose: str = Field(description="what runs in it")
    image: str = Field(description="container image with a pinned tag")
    python: str = Field(description="version range")
    gpu: bool = Field(description="whether its jobs need an NVIDIA GPU")
    packages: dict[str, str] = Field(
        {}, description="distribution -> version range; empty: what pyproject.toml asks for"
    )
    install: str = Field(description="command that makes it without a container")


def names() -> list[str]:
    """Names of the environments."""
    return sorted(file.stem for file in DIRECTORY.glob("*.yaml"))


def load_software(name: str) -> Software:
    """The environment `envs/{name}.yaml`. Raises UserError for an unknown name."""
    if name not in names():
        raise UserError(f"there is no environment {name!r}; envs/ has {', '.join(names())}")
    software = Software.model_validate(yaml.safe_load((DIRECTORY / f"{name}.yaml").read_text()))
    return software if software.packages else software.model_copy(update={"packages": _of_project()})


def _of_project() -> dict[str, str]:
    project = tomllib.loads((DIRECTORY.parent / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(line) for line in project["dependencies"]]
    return {one.name: str(one.specifier) for one in wanted}


def package_problems(software: Software) -> list[str]:
    """Packages that are missing here or outside their range, one line each."""
    found = []
    for package, wanted in software.packages.items():
        try:
            version = metadata.version(package)
        except metadata.PackageNotFoundError:
            found.append(f"{package} {wanted} is not installed")
            continue
        if not SpecifierSet(wanted).contains(Version(version), prereleases=True):
            found.append(f"{package} is {version}, wanted {wanted}")
    return found
