"""Which few instructions make a kernel fast? Each as a pair: what it means, and what it is on a machine.

The meaning is scalar code that a definition contains after scheduling; ``tensorize`` finds it and puts the
instruction there. Names are made on demand, one per target and memory scope.
"""
