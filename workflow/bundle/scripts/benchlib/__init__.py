"""The measuring library behind bench_utils: standard library only, plus torch and triton where a kernel is timed."""
