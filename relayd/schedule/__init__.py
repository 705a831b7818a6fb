"""Stage 3, schedule: which sites may start a relayer now.  Pure."""
