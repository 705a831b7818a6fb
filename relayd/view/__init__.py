"""What is shown of the queue and of what is decided: the same on the command line and over HTTP."""
