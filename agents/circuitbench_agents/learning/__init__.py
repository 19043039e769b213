"""What agents learn with: policies, training, warm starts, checkpoints, rollouts."""
