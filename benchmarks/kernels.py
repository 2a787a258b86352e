"""How fast are the kernels beside what a user would otherwise call?

    python benchmarks/kernels.py --quick --json kernels.json --plot kernels.png

The same as `shiftadd bench`; `docs/benchmarks.md` describes the method, and `benchmarks/requirements.txt` lists the
baselines beyond PyTorch.
"""

from __future__ import annotations

import sys

from tasks.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "bench")
    main()
