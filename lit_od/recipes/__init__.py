"""Recipes: YAML files that describe a whole run, and the images that they name."""
