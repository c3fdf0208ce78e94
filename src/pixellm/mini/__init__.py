"""pixellm-mini, the embedded default: a variant of PixelLM, its parts, data and training stages."""
