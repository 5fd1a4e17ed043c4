"""The only door to SQL: connections, one method for each statement, and which errors are worth waiting for."""
