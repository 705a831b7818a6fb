"""The nouns: pure values that cross the borders between stages.  Imports nothing else of relayd."""
