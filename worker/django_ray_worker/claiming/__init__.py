"""What to take and when: free slots, how long bodies take, and how claims share calls."""
