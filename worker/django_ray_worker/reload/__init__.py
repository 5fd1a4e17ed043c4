"""--reload: a supervisor ends when the project's code changes, and its successor begins; Ray stays."""
