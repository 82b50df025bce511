"""What SQL may reach, how much disk it may fill, how long it may run."""
