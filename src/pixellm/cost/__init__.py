"""What a system costs: parameters, FLOPs and memory, part by part, without running it (docs/cost.md)."""
