"""The phase ``models``: the table of networks."""

from lib.config import Config
from lib.models.table import markdown, network_rows
from lib.recipes import load_config


def models(recipe: str | None, overrides: list[str]) -> None:
    """Print every network's parameters, multiply-accumulates at the recipe's crop and output stride."""
    config = load_config(recipe, overrides) if recipe else Config()
    print(markdown(list(network_rows(tuple(config.data.crop_size)))))
