"""Circuit discovery as reinforcement learning: environments, agents, planning."""
