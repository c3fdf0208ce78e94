"""pixellm-mini, the embedded default: its model, data and training stages."""
