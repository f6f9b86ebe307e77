"""Few-shot in-context learning: tasks, demonstrations, scoring behind a shared prefix."""
