"""The parts of benchmarks/soak.py: what is dropped, who gives trouble when, and the count of what became of it."""
