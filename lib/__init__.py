"""The trainer: configuration, models, losses and the engine that runs them."""
