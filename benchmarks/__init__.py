"""How fast relayd is: docs/performance.md tells how to run these and what they showed."""
