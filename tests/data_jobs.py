"""What the tests of data scripts share."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def script(name):
    """The module of a script in scripts/, by its name; scripts are no package."""
    spec = importlib.util.spec_from_file_location(f"script_{name}", ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def recipe_file(folder, datasets):
    """A recipe in `folder` that extends tiny by data sets, given as lines of YAML."""
    (folder / "tiny.yaml").write_text((ROOT / "config/recipes/tiny.yaml").read_text())
    path = folder / "test.yaml"
    path.write_text(f"extends: tiny\ndatasets:\n{datasets}")
    return path
