"""What a person runs: the `shiftadd` command and the tasks behind it."""
