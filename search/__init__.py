"""Neural architecture search over plans. Empty so far: see the roadmap in README.md."""
