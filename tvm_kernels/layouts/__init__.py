"""How do operands lie in memory for a kernel? Static shapes, and packers from the operators' own formats.

Kernels see whole tiles only: what does not fill one is padded here, once, and cut off behind the kernel.
"""
