"""What is copied into an exported folder, and what asks one for answers: torch and transformers, nothing of this project."""
