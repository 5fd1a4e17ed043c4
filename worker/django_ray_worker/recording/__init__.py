"""What is written of an execution, and what is counted: outcomes, counts by the minute, the deletion of old rows."""
