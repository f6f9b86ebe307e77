"""Starting trainings: the ranks of one, or several of them as jobs."""
