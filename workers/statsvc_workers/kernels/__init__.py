"""Histograms of label arrays: compiled loops for the CPU and CUDA kernels."""
