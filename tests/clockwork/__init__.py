"""An application with tasks that staff may schedule, and one that they may not."""
