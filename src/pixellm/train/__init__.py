"""Training: recipes, stages, and transformers' Trainer with PixelLM's losses."""
