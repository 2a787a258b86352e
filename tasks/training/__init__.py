"""What every task trains with: the keys of `[train]` and `[plan]`, the loop, the run folder, plans in stages."""
