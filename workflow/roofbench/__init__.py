"""Roofline benchmarks of model kernels: from an ops file to verified benchmark scripts."""
