"""Parameters, FLOPs and memory of a model's answers, part by part, without running it (docs/cost.md)."""
