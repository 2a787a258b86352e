"""What does each kernel compute? Definitions without a schedule, one per kernel.

A definition is written for reading and is a correct program as it stands; rules in :mod:`tvm_kernels.schedules` make
it fast. Shapes are static but for the number of row tiles. Arguments ask for no alignment.
"""
