"""Relayers in processes of their own, under the one manager."""
