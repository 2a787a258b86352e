"""TVM kernels behind the operators. Empty so far: see the roadmap in README.md."""
