"""Sources of label maps: listing them, detecting what they hold, comparing with the last version."""
