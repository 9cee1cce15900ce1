"""From a recipe to a stored model: the one table of recipes, and one trainer per framework."""
