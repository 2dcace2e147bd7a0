"""What is asked: problems, where they come from, tools and games."""
