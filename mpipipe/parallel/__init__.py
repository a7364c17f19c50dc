"""Ranks: the world, the master and its workers. Knows MPI, knows no astronomy."""
