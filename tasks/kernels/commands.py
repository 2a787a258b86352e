"""Which commands measure?"""

from __future__ import annotations

import typer

from tasks.kernels.calibrating import profile_search
from tasks.kernels.profiling import profile_kernels
from tasks.kernels.tuning import tune

__all__ = ["profile", "tune"]

profile = typer.Typer(help="Measure how long things take.", no_args_is_help=True, rich_markup_mode=None)
profile.command("kernels")(profile_kernels)
profile.command("search")(profile_search)
