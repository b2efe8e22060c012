"""Training: configuration and recipes, cached data, the Lightning module, the run directory."""

from pneumoscope.training.config import TrainConfig, load_recipe, make_config, recipe_names
from pneumoscope.training.fit import train

__all__ = ["TrainConfig", "load_recipe", "make_config", "recipe_names", "train"]
