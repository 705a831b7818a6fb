"""What `relayd doctor` looks at: a file for each part; they read, and change nothing."""
