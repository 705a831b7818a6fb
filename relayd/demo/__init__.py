"""The embedded parts of `relayd demo`: real servers on loopback.  The daemon never imports them."""
