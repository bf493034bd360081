"""The recipe: one typed YAML file that says everything about a run."""

from nano3.recipe.identity import identity
from nano3.recipe.load import load_recipe
from nano3.recipe.schema import Recipe

__all__ = ["Recipe", "identity", "load_recipe"]
