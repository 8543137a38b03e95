"""What this machine has, found without a runtime."""
