"""How fast are the kernels beside what a user would otherwise call? `docs/benchmarks.md` describes the method.

* `cases`: what is measured. `baselines`: what it is compared with.
* `timing`: interleaved bursts, and weights that come from memory or from the cache.
* `measure`: a kernel is checked, then timed. `report`: tables, JSON, a plot. `command`: `shiftadd bench`.
"""
