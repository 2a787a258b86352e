"""`shiftadd tune`, `shiftadd profile kernels` and `shiftadd profile search`: what is measured, here or elsewhere."""
