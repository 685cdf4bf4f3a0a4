"""What each command of the command line is asked for and does."""
